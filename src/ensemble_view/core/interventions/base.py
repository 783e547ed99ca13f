"""What all interventions have in common: they compose, and print as they are written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar

from ensemble_view.core.interventions.arrangement import Arrangement
from ensemble_view.errors import InterventionError

__all__ = ["Compose", "Intervention", "Written"]


class Intervention:
    """What all interventions have in common: they apply to an arrangement and compose by ``|``."""

    def apply(self, arrangement: Arrangement) -> Arrangement:
        """Change an arrangement.

        Args:
            arrangement: Before.

        Returns:
            After.
        """
        raise NotImplementedError

    def __or__(self, other: Intervention) -> Compose:
        """Compose with a second intervention, which acts after this one.

        Args:
            other: The second one.

        Returns:
            Both in order.
        """
        return Compose(_parts(self) + _parts(other))


def _parts(intervention: Intervention) -> tuple[Intervention, ...]:
    return intervention.parts if isinstance(intervention, Compose) else (intervention,)


@dataclass(frozen=True, repr=False)
class Compose(Intervention):
    """Several interventions, one after another.

    Args:
        parts: The interventions; none leaves the chain as it is.

    Raises:
        InterventionError: If a part is no intervention.

    Example:
        >>> from ensemble_view import Delete, Swap
        >>> Delete(3) | Swap(7, 8)
        Delete(3) | Swap(7, 8)
        >>> print(Delete(3) | Swap(7, 8))
        delete 3; swap 7 8
    """

    parts: tuple[Intervention, ...] = ()

    def __post_init__(self) -> None:
        for part in self.parts:
            if not isinstance(part, Intervention):
                raise InterventionError(
                    f"{part!r} is no intervention; write what to do with it, such as Delete(3)."
                )

    def apply(self, arrangement: Arrangement) -> Arrangement:
        """Apply the parts in order.

        Args:
            arrangement: Before.

        Returns:
            After all parts.
        """
        for part in self.parts:
            arrangement = part.apply(arrangement)
        return arrangement

    def __repr__(self) -> str:
        """As it is written in Python.

        Returns:
            The parts with ``|`` between.
        """
        return " | ".join(map(repr, self.parts)) or "Compose()"

    def __str__(self) -> str:
        """As it is written on the command line.

        Returns:
            The parts with ``;`` between.
        """
        return "; ".join(map(str, self.parts))


class Written(Intervention):
    """An intervention that prints as it is written: as a call, and as words."""

    usage: ClassVar[str]
    """What follows the name on the command line."""
    readers: ClassVar[tuple[Callable[[str], Any], ...]]
    """How each of those words is read; the number that may be left out is told by the fields."""

    @property
    def arguments(self) -> tuple[Any, ...]:
        """The call's arguments, without those at the end that are the default."""
        values = [(getattr(self, field.name), field.default) for field in fields(self)]  # type: ignore[arg-type]
        while values and values[-1][0] == values[-1][1]:
            values.pop()
        return tuple(value for value, _ in values)

    @classmethod
    def parse(cls, words: Sequence[str]) -> Intervention:
        """Read the words that follow the name.

        Args:
            words: Without spaces.

        Returns:
            The intervention.

        Raises:
            ValueError: If there are too many or too few, or one cannot be read.
        """
        needed = sum(field.default is MISSING for field in fields(cls))  # type: ignore[arg-type]
        if not needed <= len(words) <= len(cls.readers):
            raise ValueError
        return cls(*(read(word) for read, word in zip(cls.readers, words, strict=False)))

    def __repr__(self) -> str:
        """As it is written in Python.

        Returns:
            The call.
        """
        return f"{type(self).__name__}({', '.join(map(repr, self.arguments))})"

    def __str__(self) -> str:
        """As it is written on the command line.

        Returns:
            The name and its arguments.
        """
        return " ".join([type(self).__name__.lower(), *map(str, self.arguments)])
