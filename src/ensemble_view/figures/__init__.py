"""Figures of results, ready for print; they draw what a result says and compute nothing of it."""
