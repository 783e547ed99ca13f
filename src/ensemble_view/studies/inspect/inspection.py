"""Look at a chain: its blocks as a table, and why each addition is or is not one."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

import pandas as pd
import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from ensemble_view.core.chain import Block, Chain
from ensemble_view.discovery.capture import Example, as_arguments
from ensemble_view.errors import printable, printable_name
from ensemble_view.study.subject import Subject
from ensemble_view.study.words import wrapped

__all__ = ["Inspection", "inspect"]

_SAMPLE = {"examples": 256, "sequences": 16}


@dataclass(frozen=True, repr=False)
class Inspection:
    """The blocks of a chain as a table.

    Args:
        frame: One row per block: ``index``, ``name``, ``shape_in``, ``shape_out``,
            ``shortcut_kind``, ``deletable``, ``parameters``, ``flops`` (floating-point operations
            per example, a multiplication and an addition counted as two) and ``branch_ratio`` (mean
            over examples of ‖F‖/‖h‖, branch against block input; nan without data).
        additions: One row per addition of the model: ``place``, ``shape``, ``block``, ``reason``.
        title: What was inspected.
        sums: How many of the model's residual sums the blocks hold, and where the others lie.
        setting: How the net was known and its inputs normalised, and warnings, a sentence each.
    """

    frame: pd.DataFrame
    additions: pd.DataFrame
    title: str
    sums: str = ""
    setting: tuple[str, ...] = ()

    def explain(self) -> str:
        """Say of each addition why it is or is not a block.

        Returns:
            One line per addition.
        """
        lines = ["Additions of the model, in the order of execution:"]
        for row in self.additions.to_dict("records"):
            mark = "-" if row["block"] is None else f"block {row['block']}"
            lines.append(
                f"  {mark:>9}  {printable_name(row['place'])}  ({row['shape']}): {row['reason']}"
            )
        if self.additions.empty:
            lines.append("  none")
        return printable("\n".join(lines))

    def __repr__(self) -> str:
        """A table at most 80 columns wide.

        Returns:
            The blocks.
        """
        table = Table(
            title=Text(printable_name(self.title)), box=None, title_justify="left", pad_edge=False
        )
        ratios = bool(self.frame["branch_ratio"].notna().any())
        heads = ["block", "module", "shape", "shortcut", "parameters", "MFLOPs"]
        for head in [*heads, *(["‖F‖/‖h‖"] if ratios else [])]:
            left = head in ("module", "shape", "shortcut")
            table.add_column(head, justify="left" if left else "right", overflow="fold")
        for row in self.frame.to_dict("records"):
            shapes = [row["shape_in"], row["shape_out"]]
            cells = [
                str(row["index"]),
                Text(printable_name(row["name"])),
                shapes[0] if shapes[0] == shapes[1] else " → ".join(shapes),
                row["shortcut_kind"],
                f"{row['parameters']:,}",
                f"{row['flops'] / 1e6:.3g}",
            ]
            table.add_row(*cells, *([f"{row['branch_ratio']:.2f}"] if ratios else []))
        console = Console(width=80, color_system=None, force_terminal=False)
        with console.capture() as capture:
            console.print(table)
        lines = [wrapped(line) for line in self.setting]
        lines += [line.rstrip() for line in capture.get().rstrip().splitlines()]
        return "\n".join([*lines, *([wrapped(self.sums)] if self.sums else [])])

    def to_json(self) -> str:
        """Write blocks and additions as strict JSON.

        Returns:
            An object with the keys ``title``, ``setting``, ``residual_sums``, ``blocks`` and
            ``additions``.
        """
        content = {
            "title": self.title,
            "setting": list(self.setting),
            "residual_sums": self.sums,
            "blocks": json.loads(self.frame.to_json(orient="records")),
            "additions": json.loads(self.additions.to_json(orient="records")),
        }
        return json.dumps(content, indent=2, ensure_ascii=False)

    def _repr_html_(self) -> str:
        return str(self.frame.to_html(index=False))


def inspect(
    subject: Subject | Chain, sample: Example | None = None, *, made_up: bool = False
) -> Inspection:
    """Describe a chain's blocks, and with data how large each branch is.

    Args:
        subject: A chain, or the subject of a study, whose data then give ‖F‖/‖h‖.
        sample: For a chain: a batch of what the model is called with (a tensor, a tuple of
            positional arguments or a dictionary of keyword arguments), which gives FLOPs and
            ‖F‖/‖h‖ as well.
        made_up: Whether the sample is no data, so that its ‖F‖/‖h‖ would say nothing.

    Returns:
        The table.

    Example:
        >>> import torch, torchvision
        >>> from ensemble_view import unravel
        >>> images = torch.randn(2, 3, 64, 64)
        >>> table = inspect(unravel(torchvision.models.resnet18(), images), images)
        >>> table.frame["shortcut_kind"].value_counts().to_dict()
        {'identity': 5, 'projection': 3}
    """
    chain = subject.chain if isinstance(subject, Subject) else subject
    if isinstance(subject, Subject):
        portion = subject.portions[0][1]
        sample = next(iter(portion.data.batches(_SAMPLE[portion.data.unit])))[0]
        device = next(leaf.device for leaf in pytree.tree_leaves(subject.sample))
        sample = pytree.tree_map(lambda leaf: leaf.to(device), sample)
    flops, ratios = [math.nan] * len(chain), [math.nan] * len(chain)
    if sample is not None:
        flops, ratios = _run(chain, sample, measuring=not made_up)
    name = type(chain.model).__name__ if chain.model is not None else "parts"
    return Inspection(
        frame=pd.DataFrame(
            {
                "index": block.index,
                "name": block.name,
                "shape_in": _shape(block.shape_in),
                "shape_out": _shape(block.shape_out),
                "shortcut_kind": block.shortcut_kind,
                "deletable": block.deletable,
                "parameters": _parameters(block),
                "flops": flops[block.index],
                "branch_ratio": ratios[block.index],
            }
            for block in chain
        ),
        additions=pd.DataFrame(
            [(a.place, _shape(a.shape), a.block, a.reason) for a in chain.additions],
            columns=["place", "shape", "block", "reason"],
            dtype=object,
        ),
        title=f"{name}: {len(chain)} blocks, {len(chain.links)} links",
        sums=chain.residual_sums,
        setting=tuple(subject.noted) if isinstance(subject, Subject) else (),
    )


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


def _parameters(block: Block) -> int:
    seen = {
        id(parameter): parameter.numel()
        for part in block.parts
        if isinstance(part, nn.Module)
        for parameter in part.parameters()
    }
    return sum(seen.values())


def _run(chain: Chain, sample: Example, *, measuring: bool) -> tuple[list[float], list[float]]:
    flops: list[float] = []
    ratios: list[float] = []
    args, kwargs = as_arguments(sample)
    leaves = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    batch = next(len(leaf) for leaf in leaves if leaf.ndim)
    with torch.inference_mode():
        x, context = chain.stem(*args, **kwargs)
        for block in chain:
            if block.index in chain.links:
                x = chain.links[block.index](x, context)
            with FlopCounterMode(display=False) as counter:
                output = block(x, context)
            flops.append(counter.get_total_flops() / batch)
            ratio = math.nan
            if measuring:
                branch = block.branch(block.before(x, context), context)
                sizes = [value.flatten(1).norm(dim=1) for value in (branch, x)]
                ratio = float((sizes[0] / sizes[1]).mean())
            ratios.append(ratio)
            x = output
    return flops, ratios
