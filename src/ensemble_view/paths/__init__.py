"""Paths: how many there are of each length, which they are, and the gradient that they carry.

A path takes the branch or the shortcut at each block; its length is the number of branches it goes
through (Veit, Wilber and Belongie 2016, section 3). :mod:`ensemble_view.paths.lengths` counts and
lists them, without torch; the other modules weigh them by the gradient of a loss.
"""
