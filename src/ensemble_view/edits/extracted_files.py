"""What the file of an extracted net says of it, and how the net is made again from that.

The file holds the weights that are left, by the names that the model's class gives them: where the
net is that class with fewer blocks, as it names them then, else as the whole model names them. To
make the net again, the whole model is built with zeros for what is gone, and extracted from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ensemble_view.core.chain import Chain
from ensemble_view.core.interventions.parsing import parse_interventions
from ensemble_view.core.plan import bind
from ensemble_view.discovery.capture import Example
from ensemble_view.discovery.granularity import Granularity
from ensemble_view.discovery.unravelling import unravel
from ensemble_view.edits.extraction import Extracted, extract_plan, lengths
from ensemble_view.edits.shortening import Entries, original_names, shorten
from ensemble_view.errors import CheckpointError

__all__ = ["Extraction"]

_MEAN = "ensemble_view.mean."


@dataclass(frozen=True)
class Extraction:
    """How an extracted net came about.

    Args:
        do: The interventions, as on the command line.
        granularity: Which blocks they mean.
        plain: Whether these are units of a net without shortcuts.
        entries: Of the model's containers, where the net is the model's class with fewer blocks.
        weights: Names of the whole model's weights in order, each with its shape if it is gone.
        names: Where the names in the file are others: what the whole model calls these.
        length: Of a text, in tokens, that the net is for; None where it takes any, or none.
    """

    do: str
    granularity: Granularity
    plain: bool
    entries: Entries | None
    weights: Mapping[str, tuple[int, ...] | None]
    names: Mapping[str, str]
    length: int | None = None

    @classmethod
    def of(
        cls,
        chain: Chain,
        do: str,
        *,
        granularity: Granularity = "block",
        plain: bool = False,
        means: Mapping[int, Tensor] | None = None,
    ) -> tuple[Extraction, nn.Module, dict[str, Tensor]]:
        """Extract, and describe what is left.

        Args:
            chain: With a model behind it.
            do: The interventions, as on the command line.
            granularity: That the chain was found at.
            plain: Whether its blocks are units of a net without shortcuts.
            means: Of the branches that are replaced by their mean.

        Returns:
            The description, the net, and what the file is to hold.
        """
        means = means or {}
        net, entries = extract_plan(chain, bind(parse_interventions(do), chain.outline), means)
        assert chain.model is not None
        whole = chain.model.state_dict()
        if isinstance(net, Extracted):
            left, names = net.weights, {}
            texts = lengths(*chain.provenance.example)
        else:
            left, texts = net.state_dict(), []
            names = original_names(chain.model, entries or {}, left)
        kept = {names.get(name, name) for name in left}
        description = cls(
            do=do,
            granularity=granularity,
            plain=plain,
            entries=entries,
            weights={k: None if k in kept else tuple(value.shape) for k, value in whole.items()},
            names={name: theirs for name, theirs in names.items() if name != theirs},
            length=texts[0] if texts else None,
        )
        stored = {f"{_MEAN}{index}": mean for index, mean in means.items()}
        return description, net, {**left, **stored}

    def to_json(self) -> dict[str, Any]:
        """Return the description as plain values for JSON.

        Returns:
            Names and values; what JSON has no order for is in lists.
        """
        return {**asdict(self), "weights": list(self.weights.items())}

    @classmethod
    def from_json(cls, content: Any) -> Extraction:
        """Read a description.

        Args:
            content: As :meth:`to_json` returns it.

        Returns:
            The description.

        Raises:
            CheckpointError: If it is damaged.
        """
        try:
            entries = content["entries"]
            return cls(
                do=str(content["do"]),
                granularity="branch" if content["granularity"] == "branch" else "block",
                plain=bool(content["plain"]),
                entries=entries
                and {str(path): [int(n) for n in kept] for path, kept in entries.items()},
                weights={
                    str(name): None if shape is None else tuple(int(size) for size in shape)
                    for name, shape in content["weights"]
                },
                names={str(name): str(theirs) for name, theirs in content["names"].items()},
                length=content["length"] and int(content["length"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(
                "What the file says of how the net was extracted is damaged "
                f"({type(error).__name__}): export it again."
            ) from error

    def whole(self, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give the weights of the whole model, zero where they are gone.

        Args:
            stored: What the file holds.

        Returns:
            In the model's own order. Names that the model does not have stay in, to be refused.
        """
        named = {
            self.names.get(name, name): value
            for name, value in stored.items()
            if not name.startswith(_MEAN)
        }
        ordered = {
            name: torch.zeros(shape) if shape is not None else named[name]
            for name, shape in self.weights.items()
            if shape is not None or name in named
        }
        return {**ordered, **named}

    def extract(
        self, model: nn.Module, example: Example, stored: Mapping[str, Tensor]
    ) -> nn.Module:
        """Make the net again.

        Args:
            model: The whole model with the weights of :meth:`whole`.
            example: What it is called with.
            stored: What the file holds, with the means that are needed.

        Returns:
            The net.
        """
        if self.entries is not None:
            return shorten(model, self.entries)
        means = {
            int(name.removeprefix(_MEAN)): value
            for name, value in stored.items()
            if name.startswith(_MEAN)
        }
        chain = unravel(model, example, plain=self.plain, granularity=self.granularity)
        net, _ = extract_plan(chain, bind(parse_interventions(self.do), chain.outline), means)
        return net
