"""What stops a command: SIGTERM and SIGHUP do as Ctrl-C does, but nothing stops the saving."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from ensemble_view.cli.saying import say

__all__ = ["stopped_by_signals", "unstopped"]

_NAMES = ("SIGTERM", "SIGHUP")
_ONE_STOP_SECONDS = 1.0


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise KeyboardInterrupt, so that what was measured so far is kept.

    A signal that the parent had ignored, as nohup does, stays ignored. A closed terminal or a
    service manager sends several at once; those within a second count as one.

    Yields:
        Nothing.
    """
    owner, last = os.getpid(), float("-inf")

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal last
        if os.getpid() != owner:  # A worker that was forked, which has nothing to keep.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        now = time.monotonic()
        if now - last >= _ONE_STOP_SECONDS:
            last = now
            raise KeyboardInterrupt

    with _handled(_NAMES, stop):
        yield


@contextmanager
def unstopped() -> Iterator[None]:
    """Let no signal stop the body, which ends soon by itself; Ctrl-C does at the second time.

    Yields:
        Nothing.
    """
    presses = 0

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal presses
        if number == signal.SIGINT:
            presses += 1
            if presses > 1:
                raise KeyboardInterrupt
            say("Saving what was measured; Ctrl-C again stops that, too.", err=True)

    with _handled(("SIGINT", *_NAMES), note):
        yield


@contextmanager
def _handled(
    names: tuple[str, ...], handler: Callable[[int, FrameType | None], None]
) -> Iterator[None]:
    """Handle signals while this lasts, where that can be done."""
    before: dict[int, Callable[[int, FrameType | None], object] | int] = {}
    try:
        if threading.current_thread() is threading.main_thread():
            for name in names:
                number = getattr(signal, name, None)
                present = None if number is None else signal.getsignal(number)
                if number is not None and present not in (None, signal.SIG_IGN):
                    before[number] = present
                    signal.signal(number, handler)
        yield
    finally:
        for number, present in before.items():
            signal.signal(number, present)
