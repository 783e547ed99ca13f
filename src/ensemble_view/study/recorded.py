"""What made a result, as its record says it: quoted, relative, and without secrets."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from ensemble_view.errors import printable_name

__all__ = ["Made", "by_command", "command_text", "made", "shorter"]

_PACKAGE = "ensemble_view"
_HIDDEN = "***"

_SECRET_NAME = re.compile(
    r"(?i)(^|[-_])(token|password|passwd|secret|credentials?|api[-_]?key|access[-_]?key|auth)$"
)
# As the services write them; whatever follows the prefix is the secret.
_SECRET = re.compile(
    r"\b(hf_|api_org_|sk-|ghp_|gho_|ghs_|github_pat_|glpat-|xox[abpr]-|AKIA|wandb_)[\w-]{8,}"
)
_IN_ADDRESS = re.compile(r"(?<=://)[^/@\s]+@")
_IN_QUERY = re.compile(
    r"(?i)([?&](?:[\w.-]*(?:token|key|password|secret|signature|credential)|sig)=)[^&#\s]+"
)


@dataclass(frozen=True)
class Made:
    """What made a result.

    Args:
        command: The command as a shell takes it, or the call.
        options: Every option with its value, defaults included, as far as they are plain.
    """

    command: str
    options: Mapping[str, Any] = field(default_factory=dict)


_command: ContextVar[Made | None] = ContextVar("_command", default=None)


@contextmanager
def by_command(words: Sequence[str], options: Mapping[str, Any]) -> Iterator[None]:
    """Say that what is measured meanwhile is what a command asked for.

    Args:
        words: Of the command line, with the program's name.
        options: All that the command was given, and the defaults of what it was not.

    Yields:
        Nothing.
    """
    token = _command.set(Made(command_text(words), _plain(options)))
    try:
        yield
    finally:
        _command.reset(token)


def made() -> Made:
    """Say what made the result that is being recorded: the command, else the call in Python.

    Returns:
        Its text and options.
    """
    return _command.get() or _call()


def command_text(words: Sequence[str]) -> str:
    """Write a command as a shell takes it, without secrets.

    Args:
        words: Of the command line.

    Returns:
        One line; paths are relative where they lie under the working directory, and begin with a
        tilde under the home directory.

    Example:
        >>> print(command_text(["ensemble-view", "lesion", "my net.pt", "--token", "abc"]))
        ensemble-view lesion 'my net.pt' --token '***'
        >>> print(command_text(["get", "https://me:pw@host/a?token=1", "hf_0123456789abcdef"]))
        get 'https://***@host/a?token=***' 'hf_***'
    """
    shown: list[str] = []
    is_secret = False
    for word in words:
        name, equals, value = word.partition("=")
        if is_secret and not word.startswith("-"):
            shown.append(_quoted(_HIDDEN))
        elif equals and re.fullmatch(r"-{0,2}[\w-]+", name):
            hidden = _HIDDEN if _SECRET_NAME.search(name) else _public(value)
            shown.append(f"{name}={_quoted(hidden)}")
        else:
            shown.append(_quoted(_public(word)))
        is_secret = not equals and word.startswith("-") and bool(_SECRET_NAME.search(word))
    return " ".join(shown)


def shorter(path: str) -> str:
    """Write a path relative to the working directory or the home directory, if it is in one.

    Args:
        path: Of a file or folder, or anything else.

    Returns:
        The path, unchanged where it is in neither.

    Example:
        >>> shorter(f"{Path.cwd()}/nets/a.pt"), shorter("/data/a.pt")
        ('nets/a.pt', '/data/a.pt')
    """
    for base, instead in ((_folder(Path.cwd), "."), (_folder(Path.home), "~")):
        if base and path == base:
            return instead
        if base and path.startswith(base + os.sep):
            inside = path[len(base) + 1 :]
            return inside if instead == "." else f"{instead}{os.sep}{inside}"
    return path


def _folder(which: Any) -> str:
    try:
        found = str(which())
    except (OSError, RuntimeError):
        return ""
    # Everything is in the root.
    return found if found != os.sep else ""


def _public(text: str) -> str:
    text = _SECRET.sub(lambda found: found[1] + _HIDDEN, text)
    text = _IN_ADDRESS.sub(f"{_HIDDEN}@", text)
    return shorter(_IN_QUERY.sub(lambda found: found[1] + _HIDDEN, text))


def _quoted(word: str) -> str:
    # A shell knows the tilde only where it is not quoted.
    if word == "~" or word.startswith(f"~{os.sep}"):
        return word[:2] + (shlex.quote(word[2:]) if word[2:] else "")
    return shlex.quote(word)


def _call() -> Made:
    """The outermost call of this package's that others made, from the frames of the stack."""
    frame: FrameType | None = sys._getframe()
    outermost: FrameType | None = None
    while frame is not None:
        if str(frame.f_globals.get("__name__", "")).partition(".")[0] == _PACKAGE:
            outermost = frame
        frame = frame.f_back
    if outermost is None:
        return Made("")
    code, values = outermost.f_code, outermost.f_locals
    count = code.co_argcount + code.co_kwonlyargcount
    given = {name: values[name] for name in code.co_varnames[:count] if name in values}
    if code.co_flags & 0x08 and count + bool(code.co_flags & 0x04) < len(code.co_varnames):
        more = values.get(code.co_varnames[count + bool(code.co_flags & 0x04)])
        given |= more if isinstance(more, dict) else {}
    given.pop("self", None)
    given.pop("command", None)
    options = _plain(given)
    words = [
        f"{name}={options[name]!r}" if name in options else type(value).__name__
        for name, value in given.items()
        if not (name in options and options[name] is None)
    ]
    return Made(f"{_PACKAGE}.{code.co_qualname}({', '.join(words)})", options)


def _plain(given: Mapping[str, Any]) -> dict[str, Any]:
    """Those values that a record can hold, without secrets."""
    found: dict[str, Any] = {}
    for name, value in given.items():
        if isinstance(value, Path):
            value = str(value)
        if isinstance(value, str):
            value = _HIDDEN if _SECRET_NAME.search(name) else printable_name(_public(value))
        if isinstance(value, list | tuple) and all(isinstance(each, str) for each in value):
            value = [printable_name(_public(each)) for each in value]
        if value is None or isinstance(value, bool | int | float | str):
            found[name] = value
        elif (
            isinstance(value, list | tuple)
            and len(value) <= 100
            and all(isinstance(each, int | float | str) for each in value)
        ):
            found[name] = list(value)
    return found
