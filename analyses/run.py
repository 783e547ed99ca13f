"""Run the analyses whose data and nets are bundled or trained here, one after the other.

    python -m analyses.run [--scale digits] [--seeds 0 1 2 3 4] [--only NAME ...]

from the top of the project. Nets are trained once and kept in ``analyses/.nets``; a run that was
stopped goes on with those that are missing. About three hours on one CPU core for the digits, most
of it training; `trained_nets.py` trains nets side by side beforehand. Analyses of published nets
take the paths of files and are run on their own, see ``analyses/README.md``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from trained_nets import scale_options  # noqa: E402

BUNDLED = ("single_lesions", "layer_responses")
"""They measure bundled nets, take no options, and belong to the digits."""
TRAINED = (
    "degradation",
    "responses_by_depth",
    "shortcuts",
    "shortcut_variants",
    "one_layer_branches",
    "lesion_curves",
    "lesion_reactions",
    "stochastic_depth",
    "predicted_decay",
    "path_lengths",
    "effective_paths",
    "dropout_analogy",
    "additive_average",
)
"""They take the options of `scale_options`."""


def commands(words: list[str]) -> list[list[str]]:
    """Return what is to be run.

    Args:
        words: Options of the command line.

    Returns:
        A command per analysis, without the interpreter.

    Raises:
        SystemExit: If there is no such analysis; the parser says so.

    Example:
        >>> [command[1:] for command in commands(["--only", "degradation", "--seeds", "0"])]
        [['--seeds', '0']]
    """
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--only", nargs="+", choices=(*BUNDLED, *TRAINED), metavar="NAME")
    only, rest = parser.parse_known_args(words)
    scale = scale_options(f"{__doc__}\n    --only NAME ...: just these").parse_args(rest)
    names = (*BUNDLED, *TRAINED) if scale.scale == "digits" else TRAINED
    return [
        [str(HERE / f"{name}.py"), *(rest if name in TRAINED else [])]
        for name in names
        if only.only is None or name in only.only
    ]


if __name__ == "__main__":
    for command in commands(sys.argv[1:]):
        print(f"\n== {Path(command[0]).stem}", flush=True)
        subprocess.run([sys.executable, *command], check=True)
