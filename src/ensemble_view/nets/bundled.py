"""Where the files that travel with the package lie: digits and the nets trained on them."""

from __future__ import annotations

from pathlib import Path

from ensemble_view.errors import DataError

__all__ = ["bundled", "bundled_names"]

_PACKAGE = Path(__file__).parents[1]


def _folders() -> list[Path]:
    """Return the folders to look in: an installed wheel's, then a source tree's."""
    return [
        folder for folder in (_PACKAGE / "_data", _PACKAGE.parents[1] / "data") if folder.is_dir()
    ]


def bundled_names() -> list[str]:
    """Return the names of all files that travel with the package.

    Returns:
        File names, sorted.

    Example:
        >>> "digits.npz" in bundled_names()
        True
    """
    return sorted({path.name for folder in _folders() for path in folder.iterdir()})


def bundled(name: str) -> Path:
    """Return the path of a file that travels with the package.

    Args:
        name: File name, for example "digits.npz".

    Returns:
        Its path in the installed package, or in the source tree.

    Raises:
        DataError: If there is no such file.

    Example:
        >>> bundled("digits.npz").is_file()
        True
    """
    for folder in _folders():
        if (folder / name).is_file():
            return folder / name
    known = ", ".join(bundled_names()) or "none at all: the installation is incomplete"
    raise DataError(f"No file {name!r} travels with ensemble_view; these do: {known}.")
