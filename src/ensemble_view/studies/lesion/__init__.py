"""Delete each block, a set of blocks, or do what is asked, and measure what that costs."""
