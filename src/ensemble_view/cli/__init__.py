"""The command line: parse, call a study, print. No science here.

``application`` puts the commands together; those of the studies are made by ``study_commands`` from
what each study says of its options. ``opening`` opens what a command names, ``ending`` saves and
prints what it found.
"""

from __future__ import annotations

from ensemble_view.cli.application import app, main

__all__ = ["app", "main"]
