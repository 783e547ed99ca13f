"""Does this trained residual net behave like an ensemble of shallow nets?

The way data flow, and where to read on:

    checkpoint ──► model ──► Chain ──┐
    (nets)         (discovery)       ├─► Plans ──► Engine ──► outcomes ──► statistics
    data ──► batches ────────────────┘   (core)    (core)     (measures)      │
    (data)                                                                    ▼
                  tables, figures, words ◄── results ◄── a study ◄────────────┘
                                       (studies/NAME, made of what is in study)

``unravel`` takes a model apart into a :class:`Chain` of blocks, each with its shortcut and branch,
and proves that the chain equals it. An intervention (``Delete(3) | Swap(7, 8)``) is a value; bound
to a chain it is a plan; plans are sorted into a trie and the engine runs each distinct prefix once.
That is the core, one folder: read ``core`` first. ``edited`` does the same to the unmodified model
for the length of a ``with``, one forward pass per plan, and is what the engine is tested against;
``extract`` makes a net of its own of what a plan leaves (``edits``).

A study is a value too: its options. Prepared on a model and data it says what it will cost, run it
gives a result with an interval on everything (``study.study`` says what a study is, ``studies`` has
a room for each). The command line is made from the same values, so that its numbers cannot differ.

``count_paths`` counts the paths through the blocks; ``gradients_by_length`` carries one cotangent
per length back through the parts of each block (``paths``), and says which lengths supply the
gradient; ``gradients_by_block`` says how much of it passes through which branch.
"""

from __future__ import annotations

import importlib
import warnings
from importlib import metadata
from typing import TYPE_CHECKING, Any

from ensemble_view.former_paths import install

if TYPE_CHECKING:
    from ensemble_view.core.alteration import branch_means
    from ensemble_view.core.chain import Block, Chain
    from ensemble_view.core.engine import Engine
    from ensemble_view.core.interventions.base import Compose, Intervention
    from ensemble_view.core.interventions.branches import Delete, DropShortcut, Keep, Replace, Scale
    from ensemble_view.core.interventions.parsing import parse_interventions
    from ensemble_view.core.interventions.places import (
        MiddleRepeat,
        Parallel,
        Reorder,
        Repeat,
        Reverse,
        Swap,
    )
    from ensemble_view.core.plan import Plan, bind
    from ensemble_view.data.labelled_data import LabelledData
    from ensemble_view.data.opening import open_data
    from ensemble_view.data.text_data import TextData
    from ensemble_view.data.text_sources import open_text
    from ensemble_view.discovery.unravelling import unravel
    from ensemble_view.edits.extraction import Extracted, extract
    from ensemble_view.edits.hooks import edited
    from ensemble_view.errors import EnsembleViewError, MeasurementWarning
    from ensemble_view.nets.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
    from ensemble_view.paths.lengths import PathLengths, path_lengths
    from ensemble_view.studies.additivity.result import SurrogatesResult
    from ensemble_view.studies.additivity.study import additivity
    from ensemble_view.studies.control.result import ControlResult
    from ensemble_view.studies.control.study import control
    from ensemble_view.studies.dose.result import DoseResult
    from ensemble_view.studies.dose.study import dose
    from ensemble_view.studies.export.exporting import export
    from ensemble_view.studies.gradients.blocks import gradients_by_block
    from ensemble_view.studies.gradients.blocks_result import GradientsByBlock
    from ensemble_view.studies.gradients.checkpoints import gradients_by_checkpoint
    from ensemble_view.studies.gradients.checkpoints_result import GradientsByCheckpoint
    from ensemble_view.studies.gradients.result import GradientsByLength
    from ensemble_view.studies.gradients.study import gradients_by_length
    from ensemble_view.studies.inspect.inspection import inspect
    from ensemble_view.studies.lesion.language import LanguageResult
    from ensemble_view.studies.lesion.own import MeasuredResult
    from ensemble_view.studies.lesion.result import LesionResult
    from ensemble_view.studies.lesion.study import lesion
    from ensemble_view.studies.loading import load
    from ensemble_view.studies.pairs.result import PairsResult
    from ensemble_view.studies.pairs.study import pairs
    from ensemble_view.studies.paths.study import count_paths
    from ensemble_view.studies.random.result import ManyResult
    from ensemble_view.studies.random.study import random
    from ensemble_view.studies.reaction.result import ReactionResult
    from ensemble_view.studies.reaction.study import reaction
    from ensemble_view.studies.reorder.result import ReorderResult
    from ensemble_view.studies.reorder.study import reorder
    from ensemble_view.studies.subsets.result import PowerSetResult
    from ensemble_view.studies.subsets.study import subsets
    from ensemble_view.study.registry import register

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
    "additivity",
    "bind",
    "branch_means",
    "control",
    "count_paths",
    "dose",
    "edited",
    "export",
    "extract",
    "gradients_by_block",
    "gradients_by_checkpoint",
    "gradients_by_length",
    "inspect",
    "lesion",
    "load",
    "load_checkpoint",
    "open_data",
    "open_text",
    "pairs",
    "parse_interventions",
    "path_lengths",
    "random",
    "reaction",
    "register",
    "reorder",
    "save_checkpoint",
    "subsets",
    "unravel",
]

# A module is imported when a name of its own is first used (PEP 562), so that importing the package
# costs next to nothing; a test holds this table to the imports above.
_MODULE_OF = {
    "Block": "core.chain",
    "Chain": "core.chain",
    "Checkpoint": "nets.checkpoints",
    "Compose": "core.interventions.base",
    "ControlResult": "studies.control.result",
    "Delete": "core.interventions.branches",
    "DoseResult": "studies.dose.result",
    "DropShortcut": "core.interventions.branches",
    "Engine": "core.engine",
    "EnsembleViewError": "errors",
    "Extracted": "edits.extraction",
    "GradientsByBlock": "studies.gradients.blocks_result",
    "GradientsByCheckpoint": "studies.gradients.checkpoints_result",
    "GradientsByLength": "studies.gradients.result",
    "Intervention": "core.interventions.base",
    "Keep": "core.interventions.branches",
    "LabelledData": "data.labelled_data",
    "LanguageResult": "studies.lesion.language",
    "LesionResult": "studies.lesion.result",
    "ManyResult": "studies.random.result",
    "MeasuredResult": "studies.lesion.own",
    "MeasurementWarning": "errors",
    "MiddleRepeat": "core.interventions.places",
    "PairsResult": "studies.pairs.result",
    "Parallel": "core.interventions.places",
    "PathLengths": "paths.lengths",
    "Plan": "core.plan",
    "PowerSetResult": "studies.subsets.result",
    "ReactionResult": "studies.reaction.result",
    "Reorder": "core.interventions.places",
    "ReorderResult": "studies.reorder.result",
    "Repeat": "core.interventions.places",
    "Replace": "core.interventions.branches",
    "Reverse": "core.interventions.places",
    "Scale": "core.interventions.branches",
    "SurrogatesResult": "studies.additivity.result",
    "Swap": "core.interventions.places",
    "TextData": "data.text_data",
    "additivity": "studies.additivity.study",
    "bind": "core.plan",
    "branch_means": "core.alteration",
    "control": "studies.control.study",
    "count_paths": "studies.paths.study",
    "dose": "studies.dose.study",
    "edited": "edits.hooks",
    "export": "studies.export.exporting",
    "extract": "edits.extraction",
    "gradients_by_block": "studies.gradients.blocks",
    "gradients_by_checkpoint": "studies.gradients.checkpoints",
    "gradients_by_length": "studies.gradients.study",
    "inspect": "studies.inspect.inspection",
    "lesion": "studies.lesion.study",
    "load": "studies.loading",
    "load_checkpoint": "nets.checkpoints",
    "open_data": "data.opening",
    "open_text": "data.text_sources",
    "pairs": "studies.pairs.study",
    "parse_interventions": "core.interventions.parsing",
    "path_lengths": "paths.lengths",
    "random": "studies.random.study",
    "reaction": "studies.reaction.study",
    "register": "study.registry",
    "reorder": "studies.reorder.study",
    "save_checkpoint": "nets.checkpoints",
    "subsets": "studies.subsets.study",
    "unravel": "discovery.unravelling",
}

# What studies were called before the command, the function and the files of one had one name.
_FORMER = {
    "dose_response": "dose",
    "lesion_control": "control",
    "many": "random",
    "power_set": "subsets",
    "surrogates": "additivity",
}

__version__ = metadata.version("ensemble-view")

install()

if not TYPE_CHECKING:  # A type checker would take any name for granted.

    def __getattr__(name: str) -> Any:
        if name in _FORMER:
            message = f"ensemble_view.{name} is called ensemble_view.{_FORMER[name]} now."
            warnings.warn(message, DeprecationWarning, stacklevel=2)
            return __getattr__(_FORMER[name])
        module = _MODULE_OF.get(name)
        if module is not None:
            value = getattr(importlib.import_module(f"{__name__}.{module}"), name)
            globals()[name] = value
            return value
        if not name.startswith("_"):
            importlib.import_module(f"{__name__}.studies")
            registry = importlib.import_module(f"{__name__}.study.registry")
            if name in registry.names():
                return importlib.import_module(f"{__name__}.study.study").function_of(name)
            try:
                return importlib.import_module(f"{__name__}.{name}")
            except ModuleNotFoundError as error:
                if error.name != f"{__name__}.{name}":
                    raise
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
