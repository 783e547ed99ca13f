"""Delete all pairs of blocks."""
