"""A prefix of an object store, by fsspec: one PUT publishes a file, and nothing is ever moved.

Object stores have no folders and no rename, but a PUT is whole or not at all, and
"only if absent" is a header. So a folder counts when what points to it is there: a
shard by its record, a volume by the index, a run by its ``run.json``, put last.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any

import fsspec

from .errors import StoreError, UsageError
from .places import Data, Files, Place, as_bytes, pairs_of

if TYPE_CHECKING:
    from zarr.abc.store import Store

# Whose PUT is whole or not at all, and may be conditional. s3 is tested over HTTP, memory in one process; every
# workspace begins with a look at whether the store does as it is asked (`Workspace.create`).
_PROTOCOLS = ("s3", "s3a", "gs", "gcs", "abfs", "az", "memory")
# One PUT up to S3's limit: the parts of an upload that a kill left behind are paid for, and nobody sees them.
_ONE_PUT_BYTES = 5 << 30
# Files of a folder that are sent side by side.
_TOGETHER_BYTES = 64 << 20
# What S3 answers to two conditional PUTs of one moment: neither was done, ask again.
_CONFLICTS, _CONFLICT_TRIES, _SECONDS_BETWEEN_TRIES = ("ConditionalRequestConflict", "409"), 8, 0.2
_TAKEN = ("PreconditionFailed", "412")
# What stores' libraries raise that is no OSError, by module.
_TROUBLES = {
    "botocore.exceptions": ("BotoCoreError", "ClientError"),
    "gcsfs.retry": ("HttpError",),
    "google.auth.exceptions": ("GoogleAuthError",),
    "azure.core.exceptions": ("AzureError",),
}
# What others write must be seen: a listing that fsspec remembers would hide it.
_OPTIONS: dict[str, Any] = {"use_listings_cache": False}


@cache
def _file_system(protocol: str) -> Any:  # noqa: ANN401 - fsspec has no types
    """Return fsspec's file system of a protocol, made once a process; settings come from its environment variables."""
    try:
        return fsspec.filesystem(protocol, **_OPTIONS)
    except ImportError as error:
        extra = " (samkit[s3] brings it for s3://)" if protocol in ("s3", "s3a") else ""
        message = f"{protocol}://: {error}{extra}. Or give a directory."
        raise UsageError(message) from error


@dataclass(frozen=True)
class RemotePlace(Place):
    """A key, or a prefix of keys, of an object store."""

    protocol: str
    #: Bucket and key, without a slash at its end.
    path: str

    @classmethod
    def from_url(cls, url: str) -> RemotePlace:
        """Read ``protocol://bucket/prefix``.

        Raises
        ------
        UsageError
            When no installed library serves the protocol, or the URL names no bucket.
        """
        protocol, _, path = url.partition("://")
        place = cls(protocol, path.strip("/"))
        if protocol not in _PROTOCOLS:
            message = (
                f"{url}: a workspace needs a store that writes an object whole and only if it is absent; samkit uses "
                f"{', '.join(f'{known}://' for known in _PROTOCOLS)}. Give one of these, or a directory."
            )
            raise UsageError(message)
        if not place.path:
            message = f"{url}: name a bucket and a folder in it, {protocol}://BUCKET/WORKSPACE."
            raise UsageError(message)
        _ = place._fs
        return place

    @property
    def _fs(self) -> Any:  # noqa: ANN401 - fsspec has no types
        return _file_system(self.protocol)

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.path.rpartition("/")[2]

    @property
    def parent(self) -> RemotePlace:
        """The prefix it lies in."""
        return RemotePlace(self.protocol, self.path.rpartition("/")[0])

    def __truediv__(self, relative: str) -> RemotePlace:
        return RemotePlace(self.protocol, f"{self.path}/{relative}")

    def __str__(self) -> str:
        return f"{self.protocol}://{self.path}"

    __repr__ = Place.__repr__

    # -- reading -----------------------------------------------------------------------------------

    def exists(self) -> bool:
        """Whether there is an object of this key."""
        # Not `isfile`: it takes a broken connection for "there is none".
        with self.said():
            try:
                return bool(self._fs.info(self.path)["type"] == "file")
            except FileNotFoundError:
                return False

    def read_bytes(self) -> bytes:
        """Return the content of the object."""
        with self.said():
            return bytes(self._fs.cat_file(self.path))

    def read_into(self, wanted: Sequence[tuple[int, memoryview]], size_bytes: int) -> None:
        """Fill memory with parts of the object; parts that follow each other are one request, requests run together."""
        ordered = sorted(wanted, key=lambda part: part[0])
        runs: list[list[tuple[int, memoryview]]] = []
        for first, memory in ordered:
            if runs and first == runs[-1][-1][0] + len(runs[-1][-1][1]):
                runs[-1].append((first, memory))
            else:
                runs.append([(first, memory)])
        starts = [run[0][0] for run in runs]
        ends = [run[-1][0] + len(run[-1][1]) for run in runs]
        if ends[-1] > size_bytes:
            message = f"{self} has {size_bytes} bytes, and byte {ends[-1]} was asked for"
            raise EOFError(message)
        try:
            with self.said():
                parts = self._fs.cat_ranges([self.path] * len(runs), starts, ends, on_error="raise")
                for part in parts:  # before fsspec 2026.6 errors are returned all the same
                    if isinstance(part, BaseException):
                        raise part
        except StoreError as error:
            # A range past the end is refused like a broken connection is; the length tells which it was.
            with self.said():
                found = self._fs.size(self.path)
            if found == size_bytes:
                raise
            message = f"{self} has {found} bytes where its rows take {size_bytes}"
            raise EOFError(message) from error
        for run, start, end, data in zip(runs, starts, ends, parts, strict=True):
            if len(data) != end - start:
                message = f"{self} ends at byte {start + len(data)}, inside a row"
                raise EOFError(message)
            for first, memory in run:
                memory[:] = data[first - start : first - start + len(memory)]

    def size_bytes(self) -> int:
        """Return how long the object is, or all below the prefix together."""
        return sum(self.files().values())

    def read_children(self, names: Iterable[str]) -> dict[str, bytes]:
        """Return the content of several objects below this prefix, read together."""
        names = list(names)
        if not names:
            return {}
        with self.said():
            found = self._fs.cat([(self / name).path for name in names], on_error="return")
            if isinstance(found, bytes):  # one path in, one content out
                return {names[0]: found}
            read = {}
            for path, content in found.items():
                if isinstance(content, FileNotFoundError):
                    continue
                if isinstance(content, BaseException):
                    raise content
                read[path.strip("/").removeprefix(f"{self.path}/")] = content
            return read

    def children(self) -> list[str]:
        """Return the names below this prefix, in order."""
        with self.said():
            try:
                listed = self._fs.ls(self.path, detail=False)
            except FileNotFoundError:
                return []
        names = {path.strip("/").removeprefix(self.path).strip("/").partition("/")[0] for path in listed}
        return sorted(name for name in names if name and not name.startswith("."))

    def files(self) -> dict[str, int]:
        """Return the size of every object below this prefix, by its path there."""
        return {path: int(found["size"]) for path, found in self._found().items()}

    def modified(self) -> float:
        """Return when the object, or the newest below the prefix, was written."""
        return max((_seconds(found) for found in self._found().values()), default=0.0)

    def free_bytes(self) -> int | None:
        """Object stores have no end."""
        return None

    def zarr_store(self) -> Store:
        """Return zarr's store of an fsspec URL."""
        from zarr.storage import FsspecStore

        return FsspecStore.from_url(str(self), storage_options=_OPTIONS, read_only=True)

    def _found(self) -> dict[str, Any]:
        with self.said():
            found = self._fs.find(self.path, detail=True)
        paths = {path.strip("/").removeprefix(self.path).strip("/"): info for path, info in found.items()}
        return {path: info for path, info in sorted(paths.items()) if not path.startswith(".")}

    # -- writing -----------------------------------------------------------------------------------

    def publish(self, data: Data) -> None:
        """Put the object."""
        with self._writing():
            self._fs.pipe_file(self.path, as_bytes(data), **self._one_put)

    def publish_if_absent(self, data: Data) -> bool:
        """Put the object unless there is one of this key; the store decides, so one writer wins."""
        content = as_bytes(data)
        for attempt in range(1, _CONFLICT_TRIES + 1):
            try:
                with self._writing():
                    self._fs.pipe_file(self.path, content, mode="create", **self._one_put)
            except FileExistsError:
                return False
            except StoreError as error:
                code = _code_of(error)
                if code in _TAKEN:
                    return False
                if code not in _CONFLICTS or attempt == _CONFLICT_TRIES:
                    raise
                time.sleep(_SECONDS_BETWEEN_TRIES * attempt)
            else:
                return True
        return False

    def publish_folder(self, files: Files, keep: Callable[[], bool] = lambda: False) -> None:
        """Put all objects of a folder, the last of them after the others."""
        if keep():
            return
        together: dict[str, bytes] = {}
        with self._writing():
            for name, data in pairs_of(files):
                # Many small files in few requests at once, large ones not all in memory.
                if sum(map(len, together.values())) > _TOGETHER_BYTES:
                    self._fs.pipe(together, **self._one_put)
                    together = {}
                together[(self / name).path] = as_bytes(data)
            last = next(reversed(together))
            content = together.pop(last)
            if together:
                self._fs.pipe(together, **self._one_put)
            self._fs.pipe_file(last, content, **self._one_put)

    @property
    def _one_put(self) -> dict[str, Any]:
        return {"chunksize": _ONE_PUT_BYTES} if self.protocol in ("s3", "s3a") else {}

    def remove(self) -> None:
        """Remove the object, or all below the prefix."""
        with self.said(), suppress(FileNotFoundError):
            self._fs.rm(self.path, recursive=True)

    def remove_children(self, names: Iterable[str]) -> None:
        """Remove several objects below this prefix by one request for a thousand."""
        paths = [(self / name).path for name in names]
        if paths:
            with self.said(), suppress(FileNotFoundError):
                self._fs.rm(paths)

    def refresh(self) -> bool:
        """Return False: an object's time is that of its PUT, so its writer puts it again."""
        return False

    def remove_leftovers(self, older_than: float) -> int:  # noqa: ARG002 - the face of every place
        """Return 0: a PUT leaves nothing behind."""
        return 0

    # -- parts -------------------------------------------------------------------------------------

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            with self.said():
                yield
        except FileNotFoundError as error:
            message = f"{self}: the bucket does not exist ({error}). Make it, or check its name. Nothing was written."
            raise StoreError(message) from error

    @contextmanager
    def said(self) -> Iterator[None]:
        """Turn what the object store's library raises into a message; what is or is not there stays as it is."""
        try:
            yield
        except (FileNotFoundError, FileExistsError):
            raise
        except _trouble() as error:
            message = (
                f"{self}: the object store answered: {error}. Check the URL, the credentials and the connection "
                f"(for s3://, the variables AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL). Everything "
                f"that was finished before is intact; the same command goes on from there."
            )
            raise StoreError(message) from error


def _code_of(error: BaseException) -> str | None:
    """Return the code in an S3 server's answer, from the chain of errors that it became."""
    link: BaseException | None = error
    while link is not None:
        response = getattr(link, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code"))
        link = link.__cause__ or link.__context__
    return None


def _trouble() -> tuple[type[Exception], ...]:
    """Return what an object store's library raises for a refusal or a broken connection."""
    loaded = [(sys.modules[module], names) for module, names in _TROUBLES.items() if module in sys.modules]
    return (OSError, *(getattr(module, name) for module, names in loaded for name in names))


def _seconds(found: Mapping[str, Any]) -> float:
    """Return the time of a listed object; stores name it differently. What is unknown is new, and `gc` leaves it."""
    for name in ("LastModified", "mtime", "updated", "last_modified", "created"):
        if (value := found.get(name)) is not None:
            if isinstance(value, str):
                value = datetime.fromisoformat(value)
            return float(value) if isinstance(value, int | float) else float(value.timestamp())
    return time.time()
