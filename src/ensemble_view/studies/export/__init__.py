"""Save what a plan leaves of a net."""
