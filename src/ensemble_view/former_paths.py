"""Modules by their former names: they give what they are called now, with a warning.

``from ensemble_view.models import build`` goes on, so that scripts do; a new script takes the names
of :mod:`ensemble_view` itself.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["FORMER", "install"]

_PACKAGE = "ensemble_view"

FORMER: dict[str, tuple[str, ...]] = {
    "adapters": ("nets.adapters", "nets.adapters.sources"),
    "alteration": ("core.alteration",),
    "bundled": ("nets.bundled",),
    "calibration": ("study.pace",),
    "chain": ("core.chain",),
    "checkpoints": ("nets.checkpoints",),
    "datasets": ("data", "data.opening", "data.data", "data.labelled_data", "data.text_sources"),
    "engine": ("core.engine",),
    "extraction": ("edits.extraction",),
    "fusion": ("core.fusion",),
    "hooks": ("edits.hooks",),
    "interventions": ("core.interventions", "core.interventions.parsing"),
    "models": ("nets.models", "nets.models.building"),
    "parts": ("core.parts",),
    "plan": ("core.plan", "core.trie"),
    "results": ("", "study.outcomes", "study.provenance", "study.lesions"),
    "shortening": ("edits.shortening",),
    "sites": ("core.sites",),
    "weights_file": ("nets.weights_file",),
}
"""From a former module to those that have its names now."""


class _Former(MetaPathFinder, Loader):
    """Finds modules that have moved, and makes them of what they are called now."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a former module of the package; None: it is another's, or nobody's."""
        package, _, rest = fullname.partition(".")
        first, _, below = rest.partition(".")
        if package != _PACKAGE or first not in FORMER:
            return None
        if below:
            now = f"{_PACKAGE}.{FORMER[first][0]}.{below}".replace("..", ".")
            try:
                importlib.import_module(now)
            except ModuleNotFoundError:
                return None
        return ModuleSpec(fullname, self, is_package=not below)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Leave it to the machinery to make an empty module."""
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Give the empty module the names of what it is called now."""
        first, _, below = module.__name__.removeprefix(f"{_PACKAGE}.").partition(".")
        now = [f"{FORMER[first][0]}.{below}"] if below else list(FORMER[first])
        names = [f"{_PACKAGE}.{each}".rstrip(".") for each in now]
        warnings.warn(
            f"{module.__name__} is now {' and '.join(names)}; ensemble_view itself has the names "
            "that are for users.",
            DeprecationWarning,
            stacklevel=2,
        )

        def found(name: str) -> Any:
            if not name.startswith("__"):
                for each in names:
                    value = getattr(importlib.import_module(each), name, None)
                    if value is not None:
                        return value
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")

        module.__dict__["__getattr__"] = found


def install() -> None:
    """Let former modules be imported; more than once is as once."""
    if not any(isinstance(each, _Former) for each in sys.meta_path):
        sys.meta_path.append(_Former())
