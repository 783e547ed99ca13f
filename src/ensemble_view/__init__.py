"""Does this trained residual net behave like an ensemble of shallow nets?

The way data flow, and where to read on:

    checkpoint ──► model ──► Chain ──┐
    (checkpoints)  (discovery, chain)├─► Plans ──► Engine ──► outcomes ──► statistics
    data ──► batches ────────────────┘   (plan)   (engine)   (measures)       │
    (datasets)                                                                ▼
                             tables, figures ◄── results ◄── studies ◄────────┘

``unravel`` takes a model apart into a :class:`Chain` of blocks, each with its shortcut and branch,
and proves that the chain equals it. An intervention (``Delete(3) | Swap(7, 8)``) is a value; bound
to a chain it is a plan; plans are sorted into a trie and the engine runs each distinct prefix once
(``alteration`` puts together what a block runs that is not just kept or deleted).
``edited`` does the same to the unmodified model for the length of a ``with``, one forward pass per
plan, and is what the engine is tested against. ``extract`` makes a net of its own of what a plan
leaves. Studies such as ``lesion`` choose interventions, run them as an experiment
(``studies.experiment``), and return results with an interval on everything (``results.study``).
The command line calls the same studies.

``count_paths`` counts the paths through the blocks; ``gradients_by_length`` takes a chain and a
batch, carries one cotangent per length back through the parts of each block (paths), and says which
lengths supply the gradient; ``gradients_by_block`` says how much of it passes through which branch.

The core is small: ``chain``, ``interventions``, ``plan`` and ``engine``; read them in that order.
"""

from __future__ import annotations

from importlib import metadata

from ensemble_view.alteration import branch_means
from ensemble_view.chain import Block, Chain
from ensemble_view.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from ensemble_view.datasets import LabelledData, TextData, open_data, open_text
from ensemble_view.discovery import unravel
from ensemble_view.engine import Engine
from ensemble_view.errors import EnsembleViewError
from ensemble_view.extraction import Extracted, extract
from ensemble_view.hooks import edited
from ensemble_view.interventions import (
    Compose,
    Delete,
    DropShortcut,
    Intervention,
    Keep,
    MiddleRepeat,
    Parallel,
    Reorder,
    Repeat,
    Replace,
    Reverse,
    Scale,
    Swap,
    parse_interventions,
)
from ensemble_view.paths import PathLengths, path_lengths
from ensemble_view.plan import Plan
from ensemble_view.results import LanguageResult, LesionResult, MeasuredResult
from ensemble_view.results.blocks import GradientsByBlock
from ensemble_view.results.by_checkpoint import GradientsByCheckpoint
from ensemble_view.results.controls import ControlResult
from ensemble_view.results.dose import DoseResult
from ensemble_view.results.gradients import GradientsByLength
from ensemble_view.results.pairs import PairsResult
from ensemble_view.results.power_set import PowerSetResult
from ensemble_view.results.reaction import ReactionResult
from ensemble_view.results.reordering import ReorderResult
from ensemble_view.results.surrogates import SurrogatesResult
from ensemble_view.results.trials import ManyResult
from ensemble_view.studies import (
    export,
    gradients_by_block,
    gradients_by_checkpoint,
    gradients_by_length,
    lesion,
    many,
    reorder,
)
from ensemble_view.studies.controls import lesion_control
from ensemble_view.studies.dose import dose_response
from ensemble_view.studies.inspection import inspect
from ensemble_view.studies.pairs import pairs
from ensemble_view.studies.path_counts import count_paths
from ensemble_view.studies.power_set import power_set
from ensemble_view.studies.reaction import reaction
from ensemble_view.studies.surrogates import surrogates

__all__ = [
    "Block",
    "Chain",
    "Checkpoint",
    "Compose",
    "ControlResult",
    "Delete",
    "DoseResult",
    "DropShortcut",
    "Engine",
    "EnsembleViewError",
    "Extracted",
    "GradientsByBlock",
    "GradientsByCheckpoint",
    "GradientsByLength",
    "Intervention",
    "Keep",
    "LabelledData",
    "LanguageResult",
    "LesionResult",
    "ManyResult",
    "MeasuredResult",
    "MiddleRepeat",
    "PairsResult",
    "Parallel",
    "PathLengths",
    "Plan",
    "PowerSetResult",
    "ReactionResult",
    "Reorder",
    "ReorderResult",
    "Repeat",
    "Replace",
    "Reverse",
    "Scale",
    "SurrogatesResult",
    "Swap",
    "TextData",
    "branch_means",
    "count_paths",
    "dose_response",
    "edited",
    "export",
    "extract",
    "gradients_by_block",
    "gradients_by_checkpoint",
    "gradients_by_length",
    "inspect",
    "lesion",
    "lesion_control",
    "load_checkpoint",
    "many",
    "open_data",
    "open_text",
    "pairs",
    "parse_interventions",
    "path_lengths",
    "power_set",
    "reaction",
    "reorder",
    "save_checkpoint",
    "surrogates",
    "unravel",
]

__version__ = metadata.version("ensemble-view")
