"""The folders under a folder: hidden ones left out, links followed, each real folder once."""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["is_hidden", "walk", "why_closed"]

_SHADOW = "__MACOSX"  # what macOS puts beside the files of a zip, one shadow a file

_RealFolder: TypeAlias = tuple[int, int]
"""st_dev and st_ino, which every way to a folder has in common."""


def is_hidden(name: str) -> bool:
    """Tell by its name whether a file or folder is not the user's (``.DS_Store``, macOS ``._x``)."""
    return name.startswith(".") or name == _SHADOW


def why_closed(error: OSError) -> str:
    """Say why nothing of a folder is taken that cannot be listed."""
    return f"this folder cannot be listed ({error.strerror}), and nothing in it is taken: look at its permissions"


def walk(
    folder: Path, *, onerror: Callable[[OSError], None] | None = None
) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Yield (folder, its subfolders, its files), each sorted by name and without hidden ones.

    Links to folders are followed, after all that lies under the folder itself: a folder that can be reached by several
    ways comes once, by the way without a link if there is one. A link up to a folder that it lies in is not followed,
    or one link would bring in all that lies beside.

    Parameters
    ----------
    folder
        Where to begin; it may be a link itself.
    onerror
        Called with why a folder cannot be listed; nothing of it is yielded.
    """
    known: set[_RealFolder] = set()
    waiting = deque([folder])
    while waiting:
        top = waiting.popleft()
        if _is_known(top, known):
            continue
        for directory, subfolders, names in os.walk(top, onerror=onerror):
            here = Path(directory)
            visible = sorted(name for name in subfolders if not is_hidden(name))
            links = [name for name in visible if (here / name).is_symlink()]
            subfolders[:] = [name for name in visible if name not in links and not _is_known(here / name, known)]
            waiting += [here / name for name in links if not _leads_up(here / name)]
            yield here, visible, sorted(name for name in names if not is_hidden(name))


def _is_known(folder: Path, known: set[_RealFolder]) -> bool:
    """Tell whether a folder has been met before, and note it; one that is gone by now is left to whoever lists it."""
    try:
        found = folder.stat()
    except OSError:
        return False
    met = (found.st_dev, found.st_ino) in known
    known.add((found.st_dev, found.st_ino))
    return met


def _leads_up(link: Path) -> bool:
    return link.parent.resolve().is_relative_to(link.resolve())
