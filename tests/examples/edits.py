"""Files of a workspace changed as a test needs them: sealed again, so that the content is judged, or torn."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from samkit.store.documents import SEAL, canonical_json, sealed, sealed_json, sealed_lines

Change = Mapping[str, Any] | Callable[[dict[str, Any]], object]


def rewrite(file: PathLike[str], change: Change) -> None:
    """Change a sealed document and seal it again, as a program that knows the format would.

    ``change`` gives fields their new values, or is called with the content to change it.
    """
    path = Path(file)
    kept = json.loads(path.read_text(encoding="utf-8"))
    kept.pop(SEAL, None)
    if callable(change):
        change(kept)
    else:
        kept.update(change)
    path.write_bytes(sealed_json(kept))


def edit(file: PathLike[str], change: Change) -> None:
    """Change a document by hand: its seal is that of what was written before."""
    path = Path(file)
    kept = json.loads(path.read_text(encoding="utf-8"))
    seal = kept.get(SEAL)
    rewrite(path, change)
    changed = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**changed, SEAL: seal}), encoding="utf-8")


def rewrite_lines(file: PathLike[str], change: Callable[[list[Any]], object]) -> None:
    """Change the lines of a log's segment, each as JSON, and seal it again; records keep the seals they have."""
    path = Path(file)
    lines = [json.loads(line) for line in path.read_bytes().splitlines()[:-1]]
    change(lines)
    path.write_bytes(sealed_lines(canonical_json(line).encode() for line in lines))


def resealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record with the seal of what it says now."""
    return sealed({name: value for name, value in record.items() if name != SEAL})


def flip(file: PathLike[str], place: int, bits: int = 0x10) -> None:
    """Flip bits of one byte of a file, counted from its end where ``place`` is negative."""
    path = Path(file)
    data = bytearray(path.read_bytes())
    data[place] ^= bits
    path.write_bytes(data)
