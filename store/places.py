"""Where a workspace lies: a directory or a prefix of an object store, behind one face.

Whatever is written appears whole or not at all. A directory does it by a hidden name, a
flush and a rename (`store.local`), an object store by one PUT (`store.remote`).
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from zarr.abc.store import Store

DEFAULT_WORKSPACE = "samkit-workspace"

# The content of a file: one piece, or several to be written one after the other.
Data = bytes | Sequence[memoryview | bytes]

# The files of a folder, by their paths in it.
Files = Mapping[str, Data] | Iterable[tuple[str, Data]]

# Path("s3://bucket/x") has one slash left; a Windows drive has one letter.
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+")


class Place(ABC):
    """A file or a folder, or the place of one that is not there yet. ``place / name`` is a place inside."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The last part of its path."""

    @property
    @abstractmethod
    def parent(self) -> Self:
        """The folder it lies in."""

    @abstractmethod
    def __truediv__(self, relative: str) -> Self: ...

    @abstractmethod
    def __str__(self) -> str: ...

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def same_as(self, other: Place) -> bool:
        """Whether two places are one, whatever they are called."""
        return self == other

    # -- reading -----------------------------------------------------------------------------------

    @abstractmethod
    def exists(self) -> bool:
        """Whether there is a file."""

    @abstractmethod
    def read_bytes(self) -> bytes:
        """Return the content of the file.

        Raises
        ------
        FileNotFoundError
            When there is none.
        """

    @abstractmethod
    def read_into(self, wanted: Sequence[tuple[int, memoryview]], size_bytes: int) -> None:
        """Fill memory with parts of the file.

        Parameters
        ----------
        wanted
            (first byte, memory to fill) pairs.
        size_bytes
            How long the file has to be.

        Raises
        ------
        FileNotFoundError
            When there is no file.
        EOFError
            When it ends before the last byte that is asked for, and in a directory, where looking costs nothing, when
            it is of another length at all.
        """

    @abstractmethod
    def size_bytes(self) -> int:
        """Return how long the file is, or all files of the folder together; 0 for nothing."""

    @abstractmethod
    def read_children(self, names: Iterable[str]) -> dict[str, bytes]:
        """Return the content of several files of this folder, by name; those that are gone are left out."""

    @abstractmethod
    def children(self) -> list[str]:
        """Return the names in this folder, in order, hidden ones left out; none where there is no folder."""

    @abstractmethod
    def files(self) -> dict[str, int]:
        """Return the size in bytes of every file below this folder, by its path there, hidden ones left out."""

    @abstractmethod
    def modified(self) -> float:
        """Return when the file, or the newest file of the folder, was written: seconds since 1970; 0 for nothing."""

    @abstractmethod
    def free_bytes(self) -> int | None:
        """Return what is free on the disk that this lies on, or will lie on; None where there is no such number."""

    @abstractmethod
    def zarr_store(self) -> Store:
        """Return what zarr reads this folder by."""

    @abstractmethod
    def said(self) -> AbstractContextManager[None]:
        """Turn what an object store's library raises inside the block into a message, for reads that zarr does."""

    # -- writing -----------------------------------------------------------------------------------

    @abstractmethod
    def publish(self, data: Data) -> None:
        """Write the file, replacing what was there in one step."""

    @abstractmethod
    def publish_if_absent(self, data: Data) -> bool:
        """Write the file unless something is there already.

        Returns
        -------
        bool
            Whether this call was the one that wrote it. Of two writers exactly one is told True.
        """

    @abstractmethod
    def publish_folder(self, files: Files, keep: Callable[[], bool] = lambda: False) -> None:
        """Write a folder with all of its files.

        Parameters
        ----------
        files
            Content by path in the folder, or pairs of path and content that are made while they are written, so that
            not all of a large folder is in memory. On an object store, where folders cannot be moved, the last file
            is put after all others: let it be the one that tells that the folder is there.
        keep
            Asked only if something is at this place already, another writer's or an earlier one's: whether that
            stays and this copy is discarded. By default it is replaced.
        """

    @abstractmethod
    def remove(self) -> None:
        """Remove the file or the folder; nobody sees half of it gone in a directory. Nothing there is fine."""

    @abstractmethod
    def remove_children(self, names: Iterable[str]) -> None:
        """Remove several files of this folder, in few requests; those that are not there are fine."""

    @abstractmethod
    def refresh(self) -> bool:
        """Make it count as written now, so that `gc` takes it for work under way; False where only writing does."""

    @abstractmethod
    def remove_leftovers(self, older_than: float) -> int:
        """Remove what killed writers left below this folder under hidden names, if older; return how many."""


def pairs_of(files: Files) -> Iterable[tuple[str, Data]]:
    """Return (path, content) pairs of what `Place.publish_folder` takes."""
    return files.items() if isinstance(files, Mapping) else files


def as_bytes(data: Data) -> bytes:
    """Return the content of a file in one piece."""
    return data if isinstance(data, bytes) else b"".join(data)


def place_of(where: str | Path | Place) -> Place:
    """Return the place that a path or an fsspec URL (``s3://bucket/folder``) names.

    Raises
    ------
    UsageError
        When no installed library serves URLs of that kind.
    """
    if isinstance(where, Place):
        return where
    if (found := _URL.match(str(where))) and found[1].lower() in ("file", "local"):
        where = Path("/" + str(where)[found.end() :])
    elif found:
        # Only then: fsspec and what it brings take time to import.
        from .remote import RemotePlace

        return RemotePlace.from_url(f"{found[1].lower()}://{str(where)[found.end() :]}")
    from .local import LocalPlace

    return LocalPlace(Path(where))
