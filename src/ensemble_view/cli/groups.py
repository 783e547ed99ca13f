"""Options that belong together as one value: commands name the group, typer sees its fields."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, get_type_hints

from ensemble_view.cli import options
from ensemble_view.study.recorded import by_command

__all__ = [
    "BlockOptions",
    "DataOptions",
    "FewDataOptions",
    "FileOptions",
    "ModelOptions",
    "remember",
    "with_groups",
    "words",
]


@dataclass(frozen=True)
class DataOptions:
    """What a net is measured on.

    Attributes:
        data: Of --data.
        limit: Of --limit.
        split: Of --split.
        root: Of --root.
        download: Of --download.
        mean: Of --mean.
        std: Of --std.
        normalise: Of --normalise.
        resize: Of --resize.
        crop: Of --crop.
        tokenizer: Of --tokenizer.
        length: Of --length.
        class_order: Of --class-order.
        classes: Of --classes.
    """

    data: options.Data = None
    limit: options.Limit = None
    split: options.Split = "test"
    root: options.Root = None
    download: options.Download = False
    mean: options.Mean = None
    std: options.Std = None
    normalise: options.Normalise = None
    resize: options.Resize = None
    crop: options.Crop = None
    tokenizer: options.Tokenizer = None
    length: options.Length = None
    class_order: options.ClassOrder = None
    classes: options.Classes = None


@dataclass(frozen=True)
class FewDataOptions(DataOptions):
    """The same where some examples are enough.

    Attributes:
        limit: Of --limit.
    """

    limit: options.Limit = 256


@dataclass(frozen=True)
class FileOptions:
    """How a model is read.

    Attributes:
        arch: Of --arch.
        trust_pickle: Of --trust-pickle.
    """

    arch: options.Arch = None
    trust_pickle: options.TrustPickle = False


@dataclass(frozen=True)
class ModelOptions(FileOptions):
    """How a model is read, and where it runs.

    Attributes:
        device: Of --device.
        output: Of --output.
    """

    device: options.Device = "auto"
    output: options.Output = None


@dataclass(frozen=True)
class BlockOptions:
    """What counts as a block.

    Attributes:
        plain: Of --plain.
        granularity: Of --granularity.
    """

    plain: options.Plain = False
    granularity: options.Granularity = "block"


_words: list[str] = []


def remember(words: Sequence[str]) -> None:
    """Keep the words of the command line, for the record.

    Args:
        words: Without the program's name.
    """
    _words[:] = words


def words() -> list[str]:
    """Give the command line as it was typed.

    Returns:
        Its words, the program's name first.
    """
    return ["ensemble-view", *_words]


def with_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command take groups of options, each of whose fields is an option of the command line.

    Args:
        command: Parameters whose annotation is a dataclass are groups.

    Returns:
        The command with an option in place of every field, in the group's place.

    Example:
        >>> @with_groups
        ... def show(model: options.Model, opening: ModelOptions) -> None:
        ...     print(model, opening)
        >>> list(inspect.signature(show).parameters)
        ['model', 'arch', 'trust_pickle', 'device', 'output']
        >>> show(model="net.pt", arch=None, trust_pickle=False, device="cpu", output=None)
        net.pt ModelOptions(arch=None, trust_pickle=False, device='cpu', output=None)
    """
    written = inspect.signature(command, eval_str=True)
    groups: dict[str, Any] = {
        name: parameter.annotation
        for name, parameter in written.parameters.items()
        if is_dataclass(parameter.annotation)
    }
    shown: list[inspect.Parameter] = []
    for name, parameter in written.parameters.items():
        if name in groups:
            hints = get_type_hints(groups[name], include_extras=True)
            shown += [
                inspect.Parameter(
                    field.name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=field.default,
                    annotation=hints[field.name],
                )
                for field in fields(groups[name])
            ]
        else:
            shown.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    @functools.wraps(command)
    def called(**given: Any) -> None:
        asked = dict(given)
        made = {
            name: group(**{field.name: given.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        with by_command(words(), asked):
            command(**given, **made)

    # Else the signature that is looked at would be the command's own.
    del called.__wrapped__
    called.__signature__ = written.replace(parameters=shown)  # type: ignore[attr-defined]
    called.__annotations__ = {each.name: each.annotation for each in shown} | {"return": None}
    return called
