"""Placeholder docstring, replaced once the parts exist."""
