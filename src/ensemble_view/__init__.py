"""Placeholder docstring, replaced once the parts exist."""

from ensemble_view.chain import Block, Chain
from ensemble_view.discovery import unravel
from ensemble_view.hooks import edited
from ensemble_view.interventions import Compose, Delete, Keep, Reorder, Swap

__all__ = ["Block", "Chain", "Compose", "Delete", "Keep", "Reorder", "Swap", "edited", "unravel"]
