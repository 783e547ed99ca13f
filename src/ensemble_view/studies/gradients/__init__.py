"""Weigh paths by the gradient that they carry."""
