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

import importlib
from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ensemble_view.alteration import branch_means
    from ensemble_view.chain import Block, Chain
    from ensemble_view.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
    from ensemble_view.datasets import LabelledData, TextData, open_data, open_text
    from ensemble_view.discovery import unravel
    from ensemble_view.engine import Engine
    from ensemble_view.errors import EnsembleViewError, MeasurementWarning
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
    from ensemble_view.results.many import ManyResult
    from ensemble_view.results.pairs import PairsResult
    from ensemble_view.results.power_set import PowerSetResult
    from ensemble_view.results.reaction import ReactionResult
    from ensemble_view.results.reordering import ReorderResult
    from ensemble_view.results.surrogates import SurrogatesResult
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
    "MeasurementWarning",
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

# A module is imported when a name of its own is first used (PEP 562), so that importing the package
# costs next to nothing; a test holds this table to the imports above.
_MODULE_OF = {
    "Block": "chain",
    "Chain": "chain",
    "Checkpoint": "checkpoints",
    "Compose": "interventions",
    "ControlResult": "results.controls",
    "Delete": "interventions",
    "DoseResult": "results.dose",
    "DropShortcut": "interventions",
    "Engine": "engine",
    "EnsembleViewError": "errors",
    "Extracted": "extraction",
    "GradientsByBlock": "results.blocks",
    "GradientsByCheckpoint": "results.by_checkpoint",
    "GradientsByLength": "results.gradients",
    "Intervention": "interventions",
    "Keep": "interventions",
    "LabelledData": "datasets",
    "LanguageResult": "results",
    "LesionResult": "results",
    "ManyResult": "results.many",
    "MeasuredResult": "results",
    "MeasurementWarning": "errors",
    "MiddleRepeat": "interventions",
    "PairsResult": "results.pairs",
    "Parallel": "interventions",
    "PathLengths": "paths",
    "Plan": "plan",
    "PowerSetResult": "results.power_set",
    "ReactionResult": "results.reaction",
    "Reorder": "interventions",
    "ReorderResult": "results.reordering",
    "Repeat": "interventions",
    "Replace": "interventions",
    "Reverse": "interventions",
    "Scale": "interventions",
    "SurrogatesResult": "results.surrogates",
    "Swap": "interventions",
    "TextData": "datasets",
    "branch_means": "alteration",
    "count_paths": "studies.path_counts",
    "dose_response": "studies.dose",
    "edited": "hooks",
    "export": "studies",
    "extract": "extraction",
    "gradients_by_block": "studies",
    "gradients_by_checkpoint": "studies",
    "gradients_by_length": "studies",
    "inspect": "studies.inspection",
    "lesion": "studies",
    "lesion_control": "studies.controls",
    "load_checkpoint": "checkpoints",
    "many": "studies",
    "open_data": "datasets",
    "open_text": "datasets",
    "pairs": "studies.pairs",
    "parse_interventions": "interventions",
    "path_lengths": "paths",
    "power_set": "studies.power_set",
    "reaction": "studies.reaction",
    "reorder": "studies",
    "save_checkpoint": "checkpoints",
    "surrogates": "studies.surrogates",
    "unravel": "discovery",
}

__version__ = metadata.version("ensemble-view")

if not TYPE_CHECKING:  # A type checker would take any name for granted.

    def __getattr__(name: str) -> Any:
        module = _MODULE_OF.get(name)
        if module is not None:
            value = getattr(importlib.import_module(f"{__name__}.{module}"), name)
            globals()[name] = value
            return value
        if not name.startswith("_"):
            try:
                return importlib.import_module(f"{__name__}.{name}")
            except ModuleNotFoundError as error:
                if error.name != f"{__name__}.{name}":
                    raise
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
