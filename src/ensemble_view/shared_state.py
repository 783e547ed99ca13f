"""State that a process has once, altered by one thread at a time and put back by the last one.

``torch.export``, a model's modes and global hooks, random generators, the environment: what one
thread alters there meets every other thread. What is soon done holds a lock; what may last, such as
an edit of a model, shares a setting that comes back when the last who asked for it is done.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Generic, TypeVar

__all__ = ["ENVIRONMENT", "EXPORT", "RANDOM", "Setting", "Shared"]

EXPORT = threading.RLock()
"""Held while a model is exported or kept in evaluation mode."""

RANDOM = threading.RLock()
"""Held while torch's global generators are seeded for one purpose."""

ENVIRONMENT = threading.RLock()
"""Held while other libraries read settings from the environment."""

ValueT = TypeVar("ValueT")


class Shared:
    """A context that several threads may be in at once: the first enters it, the last leaves it.

    Args:
        make: Makes the context, which alters state of the whole process.
        lock: Held while it is entered and left, not within.

    Example:
        >>> from contextlib import contextmanager
        >>> @contextmanager
        ... def loud():
        ...     print("on")
        ...     yield
        ...     print("off")
        >>> shared = Shared(loud)
        >>> with shared.entered(), shared.entered():
        ...     pass
        on
        off
    """

    def __init__(
        self,
        make: Callable[[], AbstractContextManager[Any]],
        lock: AbstractContextManager[Any] | None = None,
    ) -> None:
        self._make = make
        self._lock = threading.Lock() if lock is None else lock
        self._within = 0
        self._context: AbstractContextManager[Any] | None = None

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Be in the context.

        Yields:
            Nothing.
        """
        with self._lock:
            if not self._within:
                self._context = self._make()
                self._context.__enter__()
            self._within += 1
        try:
            yield
        finally:
            with self._lock:
                self._within -= 1
                if not self._within and self._context is not None:
                    context, self._context = self._context, None
                    context.__exit__(None, None, None)


class Setting(Generic[ValueT]):
    """A setting of the whole process: the latest who asked decides, the last restores it.

    Args:
        read: Gives its value.
        write: Sets it.

    Example:
        >>> state = {"threads": 4}
        >>> setting = Setting(lambda: state["threads"], lambda n: state.update(threads=n))
        >>> with setting.at(1):
        ...     state
        {'threads': 1}
        >>> state
        {'threads': 4}
    """

    def __init__(self, read: Callable[[], ValueT], write: Callable[[ValueT], object]) -> None:
        self._read, self._write = read, write
        self._lock = threading.Lock()
        self._asked: list[tuple[object, ValueT]] = []
        self._before: list[ValueT] = []

    @contextmanager
    def at(self, value: ValueT) -> Iterator[None]:
        """Have the setting at a value.

        Args:
            value: What is asked for.

        Yields:
            Nothing.
        """
        mine = object()
        with self._lock:
            if not self._asked:
                self._before = [self._read()]
            self._asked.append((mine, value))
            self._write(value)
        try:
            yield
        finally:
            with self._lock:
                self._asked = [each for each in self._asked if each[0] is not mine]
                self._write(self._asked[-1][1] if self._asked else self._before[0])
