"""How strongly do the layers of trained nets respond, and is the residual function an amplifier?

Two things that are said of residual nets, measured on nets of both kinds:

- Responses: He et al. 2015 (arXiv 1512.03385), figure 7: the standard deviation of what each 3x3
  convolution gives, after BatchNorm and before the nonlinearity or the addition. They found it
  smaller in residual nets than in plain ones, and smaller the deeper the net.
- The amplifier: where H = x + F goes from 5.1 to 5.2, that is 2 %, but F goes from 0.1 to 0.2,
  100 %, so that F is easier to learn. There the input is held, F changes by as much as H, and the
  amplification is the factor |H| / |F|. Here the *input* changes a little, and the relative change
  |F(x') - F(x)| / |F(x)| of each block's branch is measured against that of the sum H.

Of the checkpoints in the folder given (``resnet*.th``, CIFAR-10) and the bundled nets.

    python analyses/layer_responses.py [FOLDER]

FOLDER holds ``checkpoints`` and ``data``, by default ``../shared``; without it only the bundled
nets are measured. Writes ``analyses/layer_responses/``: ``responses.csv`` (by layer),
``changes.csv`` (by block), the figure and ``summary.md``. About a minute on one CPU core.
"""

from __future__ import annotations

import datetime
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from published import MEAN, SHARED, STD
from reporting import processor
from torch import Tensor, nn

import ensemble_view
from ensemble_view import Chain, LabelledData
from ensemble_view.figures.style import FULL_WIDTH, paper_style, save_figure
from ensemble_view.statistics.student import student_interval

IMAGES = "cifar10_test_lossless.npz"
BUNDLED = ("digits-resnet110", "digits-resnet110v2")
PLAIN = ("digits-plain32", "digits-vgg15")
LIMIT = 300
BATCH = 50
SEED = 0
CHANGE = 0.01
"""Norm of the change, relative to what is changed."""

CHANGED = {"image": "the image", "block": "the block's own input"}
"""What is changed: the image, so that every block gets what earlier blocks make of it; or the
input of each block by itself."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Subject:
    """A net and the images that it sees.

    Args:
        name: Of the net.
        model: In evaluation mode.
        data: Images with the net's own normalisation.
        residual: Whether it has shortcuts.
    """

    name: str
    model: nn.Module
    data: LabelledData
    residual: bool


def subjects(folder: Path, limit: int) -> list[Subject]:
    """Open the nets there are.

    Args:
        folder: Where ``checkpoints`` and ``data`` are; may be absent.
        limit: At most so many images, class-balanced.

    Returns:
        Published nets by depth, then the bundled ones.
    """
    found = []
    for path in sorted(folder.glob("checkpoints/resnet*.th")):
        net = ensemble_view.load_checkpoint(path)
        data = ensemble_view.open_data(folder / "data" / IMAGES, mean=MEAN, std=STD, limit=limit)
        found.append(Subject(path.stem.split("-")[0], net.model, data, True))
    found.sort(key=lambda subject: int(subject.name.removeprefix("resnet")))
    for name in (*BUNDLED, *PLAIN):
        net = ensemble_view.load_checkpoint(name)
        assert net.normalisation is not None
        mean, std = net.normalisation
        data = ensemble_view.open_data("digits", mean=mean, std=std, limit=limit)
        found.append(Subject(name, net.model, data, name in BUNDLED))
    return found


def moments(model: nn.Module, data: LabelledData) -> dict[str, Floats]:
    """Follow what each 3x3 convolution gives, after the BatchNorm that takes it, if one does.

    Args:
        model: Any net; hooks are on it for the length of the call.
        data: Its images.

    Returns:
        Mean and mean square over channels and positions, shape ``[examples, 2]``, by the name of
        the convolution, in the order in which they run.
    """
    found: dict[str, list[Tensor]] = {}
    last: tuple[str, Tensor] | None = None

    def of(output: Tensor) -> Tensor:
        values = output.flatten(1).double()
        return torch.stack([values.mean(1), values.square().mean(1)], 1)

    def follow(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            nonlocal last
            last = (name, output)
            found.setdefault(name, []).append(of(output))

        return hook

    def normalised(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if last is not None and inputs[0] is last[1]:
            found[last[0]][-1] = of(output)

    handles = []
    try:
        for name, module in model.named_modules():
            if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
                handles.append(module.register_forward_hook(follow(name)))
            elif isinstance(module, nn.BatchNorm2d):
                handles.append(module.register_forward_hook(normalised))
        with torch.inference_mode():
            for inputs, _ in data.batches(BATCH):
                model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return {name: torch.cat(parts).numpy() for name, parts in found.items()}


def without_each(values: Floats) -> Floats:
    """Return the mean without each example in turn.

    Args:
        values: Examples last, at least two.

    Returns:
        Of the same shape.
    """
    means: Floats = (values.sum(-1, keepdims=True) - values) / (values.shape[-1] - 1)
    return means


def jackknife(whole: Floats, parts: Floats) -> tuple[Floats, Floats]:
    """Return 95 % limits of a function of means over examples (Tukey 1958).

    Args:
        whole: The estimate.
        parts: The same without each example in turn; examples last.

    Returns:
        Lower and upper limits, by Student's t.
    """
    n = parts.shape[-1]
    spread = np.square(parts - parts.mean(-1, keepdims=True)).sum(-1)
    low, high, _ = student_interval(whole, np.sqrt((n - 1) / n * spread), n - 1)
    return low, high


def responses(found: Mapping[str, Floats]) -> pd.DataFrame:
    """Return how strongly each layer responds.

    Two answers, because few images may respond many times as strongly as the others: the standard
    deviation over all values of all images (``pooled``), and that over the values of one image,
    its geometric mean over the images (``typical``).

    Args:
        found: Of :func:`moments`.

    Returns:
        A row per layer, and last a row of their mean, whose layer is -1; with t intervals over the
        images, by the jackknife.
    """
    mean, square = np.moveaxis(np.stack(list(found.values())), -1, 0)
    logs = np.log(square - mean**2) / 2
    table = pd.DataFrame({"layer": [*range(len(found)), -1], "name": [*found, "mean"]})
    for name, whole, parts in (
        (
            "pooled",
            np.sqrt(square.mean(-1) - mean.mean(-1) ** 2),
            np.sqrt(without_each(square) - without_each(mean) ** 2),
        ),
        ("typical", np.exp(logs.mean(-1)), np.exp(without_each(logs))),
    ):
        whole, parts = np.append(whole, whole.mean()), np.vstack([parts, parts.mean(0)])
        table[name] = whole
        table[f"{name}_low"], table[f"{name}_high"] = jackknife(whole, parts)
    return table


def changed(x: Tensor, generator: torch.Generator) -> Tensor:
    """Add normal noise of norm :data:`CHANGE` times that of each example.

    Args:
        x: Examples first.
        generator: Of the noise.

    Returns:
        The same a little changed.
    """
    noise = torch.randn(x.shape, generator=generator).to(x)
    scale = CHANGE * _norms(x) / _norms(noise)
    return x + noise * scale.view(-1, *[1] * (x.dim() - 1))


def _norms(x: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(x.flatten(1), dim=1)
    return norms


def changes(chain: Chain, data: LabelledData, seed: int = SEED) -> dict[str, Floats]:
    """Measure how F and H of each block change with their input.

    Args:
        chain: Of residual sums.
        data: Its images.
        seed: Of the noise.

    Returns:
        For each of :data:`CHANGED`, and each block and example: the relative change of F, that of
        H, and the norms of F and H; shape ``[4, blocks, examples]``.
    """
    generator = torch.Generator().manual_seed(seed)
    batches: dict[str, list[Tensor]] = {name: [] for name in CHANGED}
    with torch.inference_mode():
        for inputs, _ in data.batches(BATCH):
            (x, context), (moved, _) = chain.stem(inputs), chain.stem(changed(inputs, generator))
            rows: dict[str, list[Tensor]] = {name: [] for name in CHANGED}
            for position, block in enumerate(chain):
                if position in chain.links:
                    link = chain.links[position]
                    x, moved = link(x, context), link(moved, context)
                sums = {}
                for name, value in (
                    ("full", x), ("image", moved), ("block", changed(x, generator))
                ):  # fmt: skip
                    shared = block.before(value, context)
                    branch = block.branch(shared, context)
                    sums[name] = (branch, block.shortcut(shared, context) + branch)
                norms = [_norms(value) for value in sums["full"]]
                for name in CHANGED:
                    relative = [
                        _norms(new - old) / norm
                        for new, old, norm in zip(sums[name], sums["full"], norms, strict=True)
                    ]
                    rows[name].append(torch.stack([*relative, *norms]))
                x, moved = (block.after(sums[name][1], context) for name in ("full", "image"))
            for name in CHANGED:
                batches[name].append(torch.stack(rows[name], 1))
    return {name: torch.cat(parts, -1).double().numpy() for name, parts in batches.items()}


def amplification(found: Floats, names: list[str]) -> pd.DataFrame:
    """Compare the relative change of F with that of H.

    Args:
        found: Of :func:`changes`, shape ``[4, blocks, examples]``.
        names: Of the blocks.

    Returns:
        A row per block, and last one of the mean over blocks, whose block is -1, all means
        geometric: relative changes; their ratio (``amplification``); |H| / |F| (``factor``: the
        amplification if F changed by as much as H); both with t intervals over the examples.
    """
    logs = np.log(found)
    logs = np.concatenate([logs, logs.mean(1, keepdims=True)], 1)
    table = pd.DataFrame({"block": [*range(len(names)), -1], "name": [*names, "mean"]})
    table["change_of_branch"], table["change_of_sum"] = np.exp(logs[:2].mean(-1))
    for name, values in {"amplification": logs[0] - logs[1], "factor": logs[3] - logs[2]}.items():
        low, high = jackknife(values.mean(-1), without_each(values))
        table[name] = np.exp(values.mean(-1))
        table[f"{name}_low"], table[f"{name}_high"] = np.exp(low), np.exp(high)
    return table


def run(
    folder: Path, shared: Path = SHARED, *, limit: int = LIMIT
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Measure all nets and write tables, figure and summary.

    Args:
        folder: Where to write.
        shared: Where ``checkpoints`` and ``data`` are; may be absent.
        limit: At most so many images.

    Returns:
        The responses by layer, and the changes by block.
    """
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    by_layer, by_block = [], []
    for subject in subjects(shared, limit):
        about: dict[str, Any] = {
            "net": subject.name,
            "residual": subject.residual,
            "examples": len(subject.data),
        }
        by_layer.append(responses(moments(subject.model, subject.data)).assign(**about))
        if subject.residual:
            example = next(iter(subject.data.batches(2)))[0]
            chain = ensemble_view.unravel(subject.model, example, granularity="branch")
            names = [block.name for block in chain]
            for name, found in changes(chain, subject.data).items():
                by_block.append(amplification(found, names).assign(changed=name, **about))
        print(f"{subject.name}: done", flush=True)
    layers, blocks = pd.concat(by_layer), pd.concat(by_block)
    for name, table in (("responses", layers), ("changes", blocks)):
        table.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g", lineterminator="\n")
    figure = draw(layers, blocks)
    for suffix in ("pdf", "png"):
        save_figure(figure, folder / f"layer_responses.{suffix}")
    (folder / "summary.md").write_text(_summary(layers, blocks))
    return layers, blocks


def draw(layers: pd.DataFrame, blocks: pd.DataFrame) -> Figure:
    """Draw responses by layer and amplification by block, of published nets and bundled ones.

    Args:
        layers: A row per net and layer.
        blocks: A row per net, kind of change and block.

    Returns:
        Two rows of panels: responses above, amplification below.
    """
    bundled = {*BUNDLED, *PLAIN}
    nets = list(dict.fromkeys(layers["net"]))
    sides = [[net for net in nets if net not in bundled], [net for net in nets if net in bundled]]
    sides = [side for side in sides if side]
    with paper_style():
        figure = Figure(figsize=(FULL_WIDTH, 4.2), layout="constrained")
        panels = figure.subplots(2, len(sides), squeeze=False, sharey="row")
        for column, side in enumerate(sides):
            for index, net in enumerate(side):
                _by_layer(panels[0, column], layers[layers["net"] == net], f"C{index}")
                own = blocks[(blocks["net"] == net) & (blocks["changed"] == "image")]
                _by_block(panels[1, column], own, f"C{index}")
            panels[0, column].set_xlabel("3×3 layer")
            panels[1, column].set_xlabel("block")
            panels[1, column].set_yscale("log")
            panels[1, column].axhline(1, color="0.45", lw=0.6)
            for axis in panels[:, column]:
                axis.spines[["top", "right"]].set_visible(False)
                if axis.get_legend_handles_labels()[0]:
                    axis.legend(frameon=False, fontsize=6, loc="upper right", ncols=2)
        panels[0, 0].set_ylabel("typical deviation of response")
        panels[0, 0].set_ylim(bottom=0)
        panels[1, 0].set_ylabel("relative change of F / of H")
        # Room for the legends.
        panels[1, 0].set_ylim(top=4 * blocks["factor"].max())
    return figure


def _by_layer(axis: Axes, table: pd.DataFrame, color: str) -> None:
    rows = table[table["layer"] >= 0]
    style = "-" if rows["residual"].all() else "--"
    axis.plot(rows["layer"], rows["typical"], style, color=color, lw=1, label=rows["net"].iloc[0])
    axis.fill_between(rows["layer"], rows["typical_low"], rows["typical_high"], color=color,
                      alpha=0.2, lw=0)  # fmt: skip


def _by_block(axis: Axes, table: pd.DataFrame, color: str) -> None:
    rows = table[table["block"] >= 0]
    if rows.empty:
        return
    net = rows["net"].iloc[0]
    axis.plot(rows["block"], rows["amplification"], color=color, lw=1, label=f"{net}, measured")
    axis.fill_between(rows["block"], rows["amplification_low"], rows["amplification_high"],
                      color=color, alpha=0.2, lw=0)  # fmt: skip
    axis.plot(rows["block"], rows["factor"], ":", color=color, lw=0.8, label=f"{net}, |H| / |F|")


def _summary(layers: pd.DataFrame, blocks: pd.DataFrame) -> str:
    lines = [
        "# Responses of layers, and the residual function as an amplifier",
        "",
        f"Made by `python analyses/layer_responses.py` on {datetime.date.today()}, one CPU thread "
        f"of {processor()}, seed {SEED}; ensemble_view "
        f"{ensemble_view.__version__}, torch {torch.__version__}. {layers['examples'].max()} "
        f"class-balanced test images per net: of CIFAR-10, exact ones (`{IMAGES}`), for the "
        "published nets; of the digits for the bundled ones. Brackets: 95 % t intervals over the "
        "images, by the jackknife. The bundled nets differ in depth and in how they were trained "
        "(`data/README.md`); each line speaks of one net.",
        "",
        "## Responses",
        "",
        "Standard deviation of what each 3×3 convolution gives, after the BatchNorm that takes it "
        "(in version 2 the last of a branch has none), before nonlinearity or addition. *pooled*: "
        "over all images, channels and positions; *typical*: over one image's, geometric mean over "
        "the images. Mean over layers; of the typical one, smallest and largest layer.",
        "",
        "| net | shortcuts | layers | pooled | typical | smallest | largest |",
        "|---|---|---|---|---|---|---|",
    ]
    for published, rows in layers.groupby("net", sort=False):
        mean, own = rows[rows["layer"] == -1].iloc[0], rows[rows["layer"] >= 0]
        lines.append(
            f"| {published} | {'yes' if mean['residual'] else 'no'} | {len(own)} "
            f"| {_limits(mean, 'pooled')} | {_limits(mean, 'typical')} "
            f"| {own['typical'].min():.3f} | {own['typical'].max():.3f} |"
        )
    lines += [
        "",
        f"## Amplifier: relative change of F against that of H, noise of {CHANGE:.0%} of the norm",
        "",
        "*amplification*: relative change of F over that of H. *factor*: |H| / |F|, which it would "
        "be if F changed by as much as H. All are geometric means over images and blocks. *above*, "
        "*below*: blocks whose interval of the amplification lies above or below 1. In a plain net "
        "F is H, and the amplification 1.",
        "",
        "| net | changed | blocks | change of F | of H | amplification | factor | above | below |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for (net, name), rows in blocks.groupby(["net", "changed"], sort=False):
        mean, own = rows[rows["block"] == -1].iloc[0], rows[rows["block"] >= 0]
        lines.append(
            f"| {net} | {CHANGED[str(name)]} | {len(own)} | {mean['change_of_branch']:.2%} "
            f"| {mean['change_of_sum']:.2%} "
            f"| {_limits(mean, 'amplification')} | {_limits(mean, 'factor')} "
            f"| {(own['amplification_low'] > 1).sum()} | {(own['amplification_high'] < 1).sum()} |"
        )
    lines += ["", "![Responses by layer, amplification by block](layer_responses.png)"]
    return "\n".join(lines) + "\n"


def _limits(row: pd.Series[float], name: str) -> str:
    return f"{row[name]:.3f} [{row[f'{name}_low']:.3f}, {row[f'{name}_high']:.3f}]"


if __name__ == "__main__":
    target = Path(__file__).with_suffix("")
    run(target, *map(Path, sys.argv[1:2]))
    print((target / "summary.md").read_text())
