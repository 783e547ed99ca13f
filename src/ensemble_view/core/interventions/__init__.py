"""Interventions: small frozen values that say what to change in a chain, whichever chain it is.

An intervention acts on an :class:`Arrangement`: which blocks run at each place, and what is done
with each. ``|`` composes: ``Delete(3) | Swap(7, 8)`` deletes block 3, then exchanges 7 and 8. A
block keeps its number wherever it is moved, and what is done with it goes along. Blocks are named
by index from 0 or by module path, with the wildcards of :mod:`fnmatch` (``"layer3.*"``); from block
i to block j means the places from where i runs to where j runs. ``repr`` writes an intervention as
in Python, ``str`` as on the command line (:func:`parse_interventions`).
"""
