"""Run the blocks in another order."""
