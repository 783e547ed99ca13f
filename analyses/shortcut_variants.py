"""What may stand in the identity's place, and where may BatchNorm and ReLU stand?

He et al. 2016 (arXiv 1603.05027), table 1 (scaling, gating, 1x1 convolution or dropout on the
shortcut of every block that keeps the shape) and table 2 (where BatchNorm and ReLU stand), both
measured there on ResNet-110 on CIFAR-10. Here the nets of a table are trained alike but for the
seed, and each is held against the original. Gates begin with a shift of -6, the paper's best; the
1x1 convolutions are followed by BatchNorm. The net with full pre-activation is version 2, which has
a 1x1 convolution where the shape changes (option B) and the original zero padding (A), so it is
also held against an original with option B.

    python analyses/shortcut_variants.py [--scale digits]

writes ``analyses/shortcut_variants/``: ``seeds.csv`` (errors of every net), ``nets.csv``,
``differences.csv``, the figure and ``summary.md``. Seconds on one CPU core once the nets are
trained.
"""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
from compared_nets import (
    Compared,
    Groups,
    by_net,
    comparison_table,
    differences,
    draw,
    errors_of,
    opening,
)
from reporting import write
from trained_nets import Scale, chosen_scale, folder_of, scale_options

DEPTHS = {"digits": 32, "cifar10": 110, "cifar10-fast": 20}
CONTROL = "Full pre-activation against option B"


def nets(depth: int) -> dict[str, tuple[Compared, ...]]:
    """Return the nets that are compared.

    Args:
        depth: Their depth.

    Returns:
        By table of the paper, with its errors; and version 2 beside version 1 with its shortcuts.
    """
    net = f"resnet{depth}"
    original = Compared("original", net, 6.61)
    full = Compared("full pre-activation", f"{net}v2", 6.37)
    return {
        "Table 1: on the shortcut": (
            original,
            Compared("both × 0.5", f"{net},variant=scaled", 12.35),
            Compared("shortcut × 0.5", f"{net},variant=scaled_shortcut", math.inf),
            Compared("exclusive gating", f"{net},variant=gated", 8.70),
            Compared("shortcut-only gating", f"{net},variant=gated_shortcut", 6.91),
            Compared("1×1 convolution", f"{net},shortcut=C", 12.22),
            Compared("dropout", f"{net},variant=dropout", math.inf),
        ),
        "Table 2: placement": (
            original,
            Compared("BN after addition", f"{net},placement=bn_after_addition", 8.17),
            Compared("ReLU before addition", f"{net},placement=relu_before_addition", 7.84),
            Compared("ReLU-only", f"{net},placement=relu_only", 6.71),
            full,
        ),
        CONTROL: (
            Compared("original, option B", f"{net},shortcut=B"),
            Compared(full.name, full.net),
        ),
    }


def run(folder: Path, scale: Scale, *, groups: Groups) -> pd.DataFrame:
    """Compare the nets of all seeds and write tables, figure and summary.

    Args:
        folder: Where to write.
        scale: Data, recipe and seeds.
        groups: As `nets` gave them.

    Returns:
        A row per table, net and seed.
    """
    errors = errors_of(scale, groups)
    means, found = by_net(errors), differences(errors)
    write(
        folder,
        {"seeds": errors, "nets": means, "differences": found},
        {"shortcut_variants": draw(errors[errors["group"] != CONTROL])},
        summary(scale, groups, means, found),
    )
    return errors


def summary(scale: Scale, groups: Groups, means: pd.DataFrame, found: pd.DataFrame) -> list[str]:
    """Say what was found.

    Args:
        scale: Data, recipe and seeds.
        groups: The nets that were compared.
        means: A row per table and net.
        found: The differences.

    Returns:
        The lines of summary.md.
    """
    lines = [
        "# Variants of the shortcut, and of where BatchNorm and ReLU stand",
        "",
        opening("shortcut_variants", scale),
        "",
        "*paper*: test error of ResNet-110 on CIFAR-10, median of five runs. *same sign?*: whether "
        "the difference to the first row has the paper's sign. What has *failed* is the paper's "
        "word, too.",
    ]
    for title, group in groups.items():
        lines += ["", f"## {title}", "", *comparison_table(group, title, means, found)]
    marks = "a dot per seed, mean and 95 % interval"
    return [*lines, "", f"![Test errors by variant: {marks}](shortcut_variants.png)"]


if __name__ == "__main__":
    chosen = chosen_scale(scale_options(__doc__).parse_args())
    target = folder_of(__file__, chosen)
    run(target, chosen, groups=nets(DEPTHS[chosen.name]))
    print((target / "summary.md").read_text())
