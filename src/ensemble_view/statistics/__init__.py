"""Statistics of paired outcomes: intervals, tests, corrections. Nothing here knows a net."""
