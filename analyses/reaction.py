"""Do later blocks of published ResNets repair a deletion, and is it the branches' size?

CIFAR-10's test images (that went through JPEG). The reaction of each net's later blocks to every
deletion, beside those of the untrained net and of the net to another example's change; for the
ResNet-32 also all doses and changes of the branches' size.

    python analyses/reaction.py [IMAGES]

writes ``analyses/reaction/summary.md``, the tables and figures, for 150 images. About six minutes
on one CPU core.
"""

from __future__ import annotations

import datetime
import sys
from pathlib import Path

import torch
from published import IMAGES, RESNET32, RESNET56, images_of
from reporting import processor

import ensemble_view
from ensemble_view import DoseResult, ReactionResult, reaction
from ensemble_view.figures.style import save_figure
from ensemble_view.studies.reaction.words import answer

NETS = {"resnet32": RESNET32, "resnet56": RESNET56}
SEED = 0
LIMIT = 150
DRAWS = 3


def run(
    folder: Path,
    nets: dict[str, Path] | None = None,
    images: Path | str = IMAGES,
    *,
    limit: int = LIMIT,
) -> tuple[dict[str, ReactionResult], DoseResult]:
    """Measure and write the tables, figures and summary.

    Args:
        folder: Where to write.
        nets: Checkpoints by name; doses are given to the first.
        images: The data, by name or path.
        limit: At most so many examples.

    Returns:
        The reactions by net, and the doses.
    """
    torch.set_num_threads(1)
    nets = NETS if nets is None else nets
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, ReactionResult] = {}
    doses: DoseResult | None = None
    for name, path in nets.items():
        net = ensemble_view.load_checkpoint(path)
        data = images_of(net, images, limit, SEED)
        found[name] = reaction(net, data, seed=SEED)
        print(f"{name}: reactions in {found[name].seconds:.0f} s", flush=True)
        _write(folder, f"reaction-{name}", found[name])
        if doses is None:
            doses = ensemble_view.dose(net, data, draws=DRAWS, seed=SEED)
            print(f"{name}: doses in {doses.run.seconds:.0f} s", flush=True)
            _write(folder, f"dose-{name}", doses)
    assert doses is not None
    (folder / "summary.md").write_text(_summary(found, doses, next(iter(nets))))
    return found, doses


def _write(folder: Path, name: str, result: ReactionResult | DoseResult) -> None:
    """Tables and figure; the outcomes of every example would be too large to keep."""
    for table, frame in result.tables.items():
        own = name if table == result.file_name else f"{name}-{table}"
        frame.to_csv(folder / f"{own}.csv", index=False, lineterminator="\n")
    figure = result.plot()
    for suffix in ("pdf", "png"):
        save_figure(figure, folder / f"{name}.{suffix}")


def _summary(found: dict[str, ReactionResult], doses: DoseResult, dosed: str) -> str:
    lines = [
        "# How later blocks react to a deletion, and what branches do at other doses",
        "",
        f"Made by `python analyses/reaction.py` on {datetime.date.today()}, one CPU thread of "
        f"{processor()}, images that went through JPEG, seed "
        f"{SEED}; ensemble_view {ensemble_view.__version__}, torch {torch.__version__}.",
        "",
        "Reaction: ⟨h - h', D⟩ / ‖D‖² at the end of a stage, D the change that leaves the deleted "
        "block, mean over the blocks that others follow and over the examples, with t intervals "
        "over the examples; *untrained*: of the net with random weights; *donor*: of the net to "
        "another example's change of the same norm; differences with simultaneous intervals "
        "(Bonferroni over the comparisons of a net); *held*: with the ReLUs after the sums held at "
        "the full net's.",
        "",
        "| net | stage | blocks | reaction | untrained | donor | reaction − untrained "
        "| reaction − donor | ratio of norms | junctions held | in a word |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, result in found.items():
        for row in result.stages_frame.to_dict("records"):
            cells = [
                f"{row[column]:.3f} [{row[f'{column}_low']:.3f}, {row[f'{column}_high']:.3f}]"
                for column in (
                    "reaction", "reaction_untrained", "reaction_donor", "minus_untrained",
                    "minus_donor", "norm_ratio", "reaction_frozen",
                )
            ]  # fmt: skip
            cells = [name, row["stage"], row["blocks"], *cells, answer(row)]
            lines.append(f"| {' | '.join(map(str, cells))} |")
    for name, result in found.items():
        lines += ["", f"## {name}", "", result.summary, "", f"![{name}](reaction-{name}.png)"]
    lines += [
        "",
        f"## Dose and response of {dosed}",
        "",
        "```",
        doses.table,
        "```",
        "",
        doses.summary,
        "",
        f"![Doses](dose-{dosed}.png)",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run(
        Path(__file__).with_suffix(""),
        images=Path(sys.argv[1]) if len(sys.argv) > 1 else IMAGES,
    )
