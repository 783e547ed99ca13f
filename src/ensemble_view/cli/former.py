"""Commands as they were written before each study had a verb of its own: `lesion --pairs`."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from ensemble_view.cli.saying import say
from ensemble_view.errors import InterventionError

__all__ = ["as_they_are"]

_STUDIES = {
    "--count": ["random"],
    "--pairs": ["pairs"],
    "--all": ["subsets"],
    "--surrogates": ["additivity"],
    "--control": ["control"],
    "--recalibrate-bn": ["control", "batchnorm"],
}
_SWITCHES = ("--pairs", "--all", "--surrogates")
_CONTROLS = {"dropshortcut": "shortcut"}
_OTHERS = {"--blocks", "--do"}
_BELONGS = {
    "--trials": "random",
    "--shape-keeping": "random",
    "--stratified": "random",
    "--only": "pairs, subsets, additivity and control",
    "--calibration": "control batchnorm",
}


def as_they_are(words: Sequence[str]) -> list[str]:
    """Write a command line of before as it is written now, and say so.

    Args:
        words: Without the program's name.

    Returns:
        The words; others if they begin with ``lesion`` and choose another study by an option.

    Raises:
        InterventionError: If several studies are chosen, or an option is that of another.

    Example:
        >>> as_they_are(["lesion", "net.pt", "--blocks", "3"])
        ['lesion', 'net.pt', '--blocks', '3']
    """
    given = [word for each in words for word in _split(each)]
    chosen = [word for word in given if word in _STUDIES]
    if given[:1] != ["lesion"]:
        return list(words)
    if not chosen:
        for word in given:
            if word in _BELONGS:
                raise InterventionError(
                    f"{word} is an option of {_BELONGS[word]}, not of lesion; write the verb of "
                    "that study in the place of lesion."
                )
        return list(words)
    different = list(dict.fromkeys([*chosen, *(word for word in given if word in _OTHERS)]))
    if len(different) > 1:
        raise InterventionError(
            f"{' and '.join(different)} were given, which are different studies; give one of them."
        )
    option = chosen[0]
    rest, verb = given[1:], list(_STUDIES[option])
    place = rest.index(option)
    if option in _SWITCHES:
        del rest[place]
    elif option in ("--control", "--recalibrate-bn"):
        value = rest[place + 1 : place + 2]
        del rest[place : place + 2]
        if option == "--control":
            verb += [_CONTROLS.get(each, each) for each in value]
        else:
            rest += ["--calibration-examples", *value]
    new = [*verb, *rest]
    say(f"lesion {option} has a verb of its own now: ensemble-view {shlex.join(new)}", err=True)
    return new


def _split(word: str) -> list[str]:
    """Part an option from the value that an equals sign joins to it."""
    option, equals, value = word.partition("=")
    return [option, value] if equals and option in _STUDIES else [word]
