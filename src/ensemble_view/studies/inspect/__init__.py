"""Look at a chain: its blocks as a table, and why each addition is or is not one."""
