"""Ways to damage an input: bits, pieces and, in JSON, types, fields and values."""

from __future__ import annotations

import io
import json
import pickletools
import random
import struct
import zipfile
from typing import Any

EXTREME: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, 10**30, -(10**18), 0.5, -0.0, 1e308, "", "a",
    "a" * 5000, "\x00", "\x1b[31m", "ü€", [], {}, [[]], [None], {"a": 1}, [0, -1], ["a", 1, None],
]  # fmt: skip
# Pickle operations that allocate, look up, call or nest.
OPERATIONS = [
    b"r\xff\xff\xff\x7f", b"j\xff\xff\xff\x7f", b"B\xff\xff\xff\x7f", b"X\xff\xff\xff\x7f",
    b"\x8e" + b"\xff" * 7 + b"\x0f", b"\x8b\xff\xff\xff\x7f", b"I" + b"9" * 5000 + b"\n",
    b"(" * 500, b"]" * 500, b"N", b"}", b")", b"R", b"b", b"0", b".", b"J\xff\xff\xff\x7f",
    b"\x8a\x08" + b"\x7f" * 8, b"ccollections\nOrderedDict\n", b"\x88", b"Q", b"K\x00",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
]  # fmt: skip
WORDS = [b"\x00" * 16, b"\xff" * 16, b"PK\x05\x06", b"PK\x01\x02", b"{", b"[" * 50, b'"', b"."]


def bits(content: bytes, rng: random.Random) -> bytes:
    found = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 3, 20))):
        if found:
            found[rng.randrange(len(found))] ^= 1 << rng.randrange(8)
    return bytes(found)


def edges(content: bytes, rng: random.Random) -> bytes:
    """Flip bits near the beginning or the end, where headers and directories lie."""
    near = min(len(content), 600)
    if rng.random() < 0.5:
        return bits(content[:near], rng) + content[near:]
    return content[: len(content) - near] + bits(content[len(content) - near :], rng)


def truncated(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def without_a_piece(content: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(content) + 1)
    return content[:start] + content[start + rng.choice((1, 8, 100, 5000)) :]


def repeated(content: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(content) + 1)
    piece = content[start : start + rng.choice((1, 8, 100, 5000))]
    return content[:start] + piece * rng.choice((2, 3, 50)) + content[start + len(piece) :]


def spliced(content: bytes, rng: random.Random) -> bytes:
    start, end = (rng.randrange(len(content) + 1) for _ in range(2))
    return content[:start] + content[end:]


def written_over(content: bytes, rng: random.Random) -> bytes:
    start, word = rng.randrange(len(content) + 1), rng.choice(WORDS)
    return content[:start] + word + content[start + len(word) :]


def number_written_over(content: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(max(1, len(content) - 8))
    number = struct.pack("<Q", rng.choice((0, 1, 2**31, 2**32 - 1, 2**40, 2**63, 2**64 - 1)))
    width = rng.choice((1, 2, 4, 8))
    return content[:start] + number[:width] + content[start + width :]


BYTES = (
    bits, edges, edges, truncated, without_a_piece, repeated, spliced, written_over,
    number_written_over,
)  # fmt: skip


def damaged(content: bytes, rng: random.Random) -> bytes:
    return rng.choice(BYTES)(content, rng)


def changed_pickle(content: bytes, rng: random.Random) -> bytes:
    """Change an argument or an operation of a pickle, or put another operation before it."""
    operations = list(pickletools.genops(content))
    operation, _, found = operations[rng.randrange(len(operations))]
    start = found or 0
    kind = rng.randrange(4)
    if kind == 0:
        return content[:start] + rng.choice(OPERATIONS) + content[start:]
    if kind == 1:
        return content[:start] + rng.choice(OPERATIONS) + content[start + 1 :]
    if kind == 2:
        ends = [place for _, _, place in operations if place is not None and place > start]
        return content[:start] + content[ends[0] if ends else len(content) :]
    if operation.arg is None:
        return damaged(content, rng)
    head, argument = content[: start + 1], content[start + 1 :]
    return head + number_written_over(argument[:8], rng) + argument[8:]


def changed_zip(content: bytes, rng: random.Random) -> bytes:
    """Change one file of a zip archive by its kind, so that the archive itself stays whole."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w") as new:
        names = old.namelist()
        structured = [name for name in names if name.endswith((".json", ".pkl"))]
        chosen = rng.choice(structured if structured and rng.random() < 0.7 else names)
        is_gone = rng.random() < 0.1
        for name in names:
            part = old.read(name)
            if name == chosen and name.endswith(".json"):
                part = changed_json(part, rng)
            elif name == chosen and name.endswith(".pkl"):
                part = changed_pickle(part, rng)
            elif name == chosen:
                part = damaged(part, rng)
            if name != chosen or not is_gone:
                new.writestr(name, part, rng.choice((0, 8)) if name == chosen else 0)
    return out.getvalue()


def damaged_archive(content: bytes, rng: random.Random) -> bytes:
    """Damage a zip archive, or what lies in it."""
    return rng.choice((damaged, changed_zip))(content, rng)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where all the values within a JSON value are."""
    found = [path]
    if isinstance(value, dict):
        for key, item in value.items():
            found += places(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value[:3]):
            found += places(item, (*path, index))
    return found


def changed(value: Any, rng: random.Random) -> Any:
    """Change one value within a JSON value: another type, an extreme, gone, twice, or deep."""
    value = json.loads(json.dumps(value))
    where = rng.choice(places(value))
    if not where:
        return rng.choice(EXTREME)
    inner = value
    for key in where[:-1]:
        inner = inner[key]
    key, kind = where[-1], rng.randrange(6)
    if kind == 0:
        del inner[key]
    elif kind == 1 and isinstance(inner, list):
        inner.insert(key, inner[key])
    elif kind == 2:
        inner[key] = [inner[key]]
    elif kind == 3 and isinstance(inner[key], int | float):
        inner[key] = -inner[key] * rng.choice((1, 2, 10**6, 10**18))
    else:
        inner[key] = rng.choice(EXTREME)
    return value


def changed_values(value: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """Change one value within nested dictionaries and lists, which hold more than JSON."""
    inner: Any = value
    while True:
        key = rng.choice(list(inner) if isinstance(inner, dict) else range(len(inner)))
        if isinstance(inner[key], dict | list) and inner[key] and rng.random() < 0.8:
            inner = inner[key]
            continue
        kind = rng.randrange(3)
        if kind == 0:
            del inner[key]
        elif kind == 1 and isinstance(inner[key], str):
            inner[key] = changed_json(inner[key].encode(), rng).decode("utf-8", "replace")
        else:
            inner[key] = rng.choice(EXTREME)
        return value


def changed_json(content: bytes, rng: random.Random) -> bytes:
    """Change JSON as JSON, or as bytes; sometimes make it deep, or of text that is none."""
    kind = rng.randrange(10)
    if kind == 0:
        return b"[" * rng.choice((150, 100_000))
    if kind == 1:
        return damaged(content, rng)
    text = json.dumps(changed(json.loads(content), rng))
    if kind == 2:
        text = text.replace('"', '"\\ud800', 1) if rng.random() < 0.5 else text.replace("1", "NaN")
    return text.encode("utf-8")


def changed_text(text: str, rng: random.Random) -> str:
    """Change words of a command line, which are text without zero bytes."""
    pieces = [
        "99999999999999", "-1", "0-99999999999999", "1e999", "nan", "inf", "a" * 5000, "*" * 60,
        "[", "0" * 5000, ",", ";", " ", "-", "٣", "\x1b", "\ud800", "9" * 5000, "2-1", "1-9999",
    ]  # fmt: skip
    for _ in range(rng.choice((1, 1, 2, 4))):
        start = rng.randrange(len(text) + 1)
        end = min(len(text), start + rng.choice((0, 0, 1, 3)))
        text = text[:start] + rng.choice(pieces) + text[end:]
    return text
