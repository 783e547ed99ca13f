"""The studies, one room each: how it is prepared, what it results in, its figure and its words."""
