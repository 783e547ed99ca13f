"""Delete k random blocks, for each k."""
