"""Count the paths through a net."""
