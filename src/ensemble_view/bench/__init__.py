"""Time the engine beside what it replaces."""
