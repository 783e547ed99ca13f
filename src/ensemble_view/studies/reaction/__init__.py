"""Delete each block and see how the later blocks of its stage answer."""
