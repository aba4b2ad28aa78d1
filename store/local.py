"""A directory: files appear by a hidden name, a flush to the disk, and a rename.

A kill at any byte leaves at most a hidden ``.*.part``, which no reader ever looks at.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from .places import Data, Files, Place, pairs_of

if TYPE_CHECKING:
    from zarr.abc.store import Store

PART_SUFFIX = ".part"

# What POSIX answers when a folder is renamed onto one that is not empty.
_TAKEN = (errno.ENOTEMPTY, errno.EEXIST)
# File systems without hard links (exFAT, some network mounts) answer one of these.
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


# macOS' fsync leaves the data in the drive's own memory; this flushes that too, where the file system can.
_FULL_SYNC: int | None = getattr(fcntl, "F_FULLFSYNC", None)


def _flushes_drive(descriptor: int) -> bool:
    assert _FULL_SYNC is not None
    try:
        fcntl.fcntl(descriptor, _FULL_SYNC)
    except OSError:
        return False
    return True


class Disk:
    """Every system call by which samkit changes a directory; tests put one in its place that fails or dies."""

    def make_folder(self, path: Path) -> None:
        """Make a folder whose parent is there."""
        path.mkdir(exist_ok=True)

    def write(self, path: Path, pieces: Sequence[memoryview | bytes]) -> None:
        """Write a new file."""
        with path.open("xb", buffering=0) as file:
            for piece in pieces:
                rest = memoryview(piece).cast("B")
                while len(rest):
                    # A system call writes 2 GiB at most, and less on a disk that is filling up.
                    rest = rest[file.write(rest) :]

    def sync(self, path: Path) -> None:
        """Make a file's content, or the names in a folder, survive a power cut."""
        descriptor = os.open(path, os.O_RDONLY)
        try:
            if _FULL_SYNC is None or not _flushes_drive(descriptor):
                os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Move a file or a folder, replacing a file or an empty folder."""
        source.replace(target)

    def link(self, source: Path, target: Path) -> None:
        """Give a file a second name; fails if the name is taken, where a rename would silently replace it."""
        os.link(source, target)

    def unlink(self, path: Path) -> None:
        """Remove a file."""
        path.unlink(missing_ok=True)

    def remove_tree(self, path: Path) -> None:
        """Remove a folder with all that is in it."""
        shutil.rmtree(path)

    def touch(self, path: Path) -> None:
        """Set a file's time to now."""
        os.utime(path)


@dataclass(frozen=True)
class LocalPlace(Place):
    """A path of the file system."""

    path: Path
    disk: Disk = field(default_factory=Disk, compare=False, repr=False)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.name

    @property
    def parent(self) -> LocalPlace:
        """The folder it lies in."""
        return LocalPlace(self.path.parent, self.disk)

    def __truediv__(self, relative: str) -> LocalPlace:
        return LocalPlace(self.path / relative, self.disk)

    def __str__(self) -> str:
        return str(self.path)

    __repr__ = Place.__repr__

    def same_as(self, other: Place) -> bool:
        """Whether two paths lead to one place, links and ``..`` followed."""
        return isinstance(other, LocalPlace) and self.path.resolve() == other.path.resolve()

    def __fspath__(self) -> str:
        return str(self.path)

    # -- reading -----------------------------------------------------------------------------------

    def exists(self) -> bool:
        """Whether there is a file."""
        return self.path.is_file()

    def read_bytes(self) -> bytes:
        """Return the content of the file."""
        try:
            return self.path.read_bytes()
        except (NotADirectoryError, IsADirectoryError) as error:
            raise FileNotFoundError(error.errno, "no such file", str(self)) from error

    def read_into(self, wanted: Sequence[tuple[int, memoryview]], size_bytes: int) -> None:
        """Fill memory with parts of the file, by one system call each and without a copy."""
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            found = os.fstat(descriptor).st_size
            if found != size_bytes:
                message = f"{self} has {found} bytes where its rows take {size_bytes}"
                raise EOFError(message)
            for first, memory in wanted:
                self._fill(descriptor, first, memory)
        finally:
            os.close(descriptor)

    def _fill(self, descriptor: int, first: int, memory: memoryview) -> None:
        """Read until the memory is full: a system call may return less than was asked for."""
        filled = 0
        while filled < len(memory):
            count = os.preadv(descriptor, [memory[filled:]], first + filled)
            if count == 0:
                message = f"{self} ends at byte {first + filled}, inside a row"
                raise EOFError(message)
            filled += count

    def size_bytes(self) -> int:
        """Return how long the file is, or all files of the folder together."""
        if self.path.is_file():
            return self.path.stat().st_size
        return sum(self.files().values())

    def read_children(self, names: Iterable[str]) -> dict[str, bytes]:
        """Return the content of several files of this folder; those that are gone are left out."""
        read = {}
        for name in names:
            with suppress(FileNotFoundError):
                read[name] = (self / name).read_bytes()
        return read

    def children(self) -> list[str]:
        """Return the names in this folder, in order, hidden ones left out."""
        try:
            return sorted(path.name for path in self.path.iterdir() if not path.name.startswith("."))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def files(self) -> dict[str, int]:
        """Return the size of every file below this folder, by its path there."""
        return {path.relative_to(self.path).as_posix(): path.stat().st_size for path in self._files()}

    def modified(self) -> float:
        """Return when the newest file was written."""
        if self.path.is_file():
            return self.path.stat().st_mtime
        return max((path.stat().st_mtime for path in self._files()), default=0.0)

    def free_bytes(self) -> int | None:
        """Return what is free on the disk that this lies on, or will lie on."""
        absolute = self.path.absolute()
        there = next(place for place in (absolute, *absolute.parents) if place.exists())
        return shutil.disk_usage(there).free

    def zarr_store(self) -> Store:
        """Return zarr's own store of a directory."""
        from zarr.storage import LocalStore

        return LocalStore(self.path, read_only=True)

    def said(self) -> AbstractContextManager[None]:
        """Nothing to turn: the system's errors name the path."""
        return nullcontext()

    def _files(self) -> Iterator[Path]:
        for folder, folders, names in os.walk(self.path):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            yield from (Path(folder, name) for name in sorted(names) if not name.startswith("."))

    # -- writing -----------------------------------------------------------------------------------

    def publish(self, data: Data) -> None:
        """Write the file, replacing what was there in one step."""
        with self._hidden() as part:
            self._write_synced(part, data)
            self.disk.rename(part, self.path)
        self.disk.sync(self.path.parent)

    def publish_if_absent(self, data: Data) -> bool:
        """Write the file unless something is there already."""
        with self._hidden() as part:
            self._write_synced(part, data)
            try:
                self._move_if_no_file(part)
            except FileExistsError:
                return False
        self.disk.sync(self.path.parent)
        return True

    def publish_folder(self, files: Files, keep: Callable[[], bool] = lambda: False) -> None:
        """Write a folder under a hidden name and move it here; a kill between two renames leaves neither."""
        with self._hidden() as part:
            self.disk.make_folder(part)
            folders = {part}
            for relative, data in pairs_of(files):
                file = part / relative
                for folder in reversed(file.relative_to(part).parents):
                    if part / folder not in folders:
                        self.disk.make_folder(part / folder)
                        folders.add(part / folder)
                self._write_synced(file, data)
            for folder in sorted(folders):
                self.disk.sync(folder)
            while not self._move_if_no_folder(part) and not keep():
                with self._hidden() as retired, suppress(FileNotFoundError):
                    # Not found: another writer has just retired it; whoever moves first now is asked about in turn.
                    self.disk.rename(self.path, retired)
        self.disk.sync(self.path.parent)

    def remove(self) -> None:
        """Remove the file or the folder; a folder under a hidden name first, so that nobody sees half of it."""
        if self.path.is_dir():
            with self._hidden() as retired, suppress(FileNotFoundError):
                self.disk.rename(self.path, retired)
        elif self.path.exists():
            self.disk.unlink(self.path)
            self.disk.sync(self.path.parent)

    def remove_children(self, names: Iterable[str]) -> None:
        """Remove several files of this folder."""
        removed = False
        for name in names:
            if (self.path / name).exists():
                self.disk.unlink(self.path / name)
                removed = True
        if removed:
            self.disk.sync(self.path)

    def refresh(self) -> bool:
        """Set the time of the file, or of one file of the folder, to now."""
        try:
            self.disk.touch(self.path if self.path.is_file() else next(self._files()))
        except (FileNotFoundError, StopIteration):
            return False
        return True

    def remove_leftovers(self, older_than: float) -> int:
        """Remove hidden ``.*.part`` files and folders that were last written before a time."""
        count = 0
        for folder, folders, names in os.walk(self.path):
            hidden = [name for name in (*folders, *names) if name.startswith(".") and name.endswith(PART_SUFFIX)]
            folders[:] = [name for name in folders if not name.startswith(".")]
            for path in (Path(folder, name) for name in hidden):
                with suppress(FileNotFoundError):  # its writer has finished meanwhile
                    if max(path.stat().st_mtime, LocalPlace(path).modified()) < older_than:
                        (self.disk.remove_tree if path.is_dir() else self.disk.unlink)(path)
                        count += 1
        return count

    # -- parts -------------------------------------------------------------------------------------

    @contextmanager
    def _hidden(self) -> Iterator[Path]:
        """Give a hidden name beside this one; what is there when the block ends is removed."""
        self._make_folders(self.path.parent)
        part = self.path.with_name(f".{self.path.name}.{uuid.uuid4().hex[:8]}{PART_SUFFIX}")
        try:
            yield part
        finally:
            if part.is_dir():
                self.disk.remove_tree(part)
            elif part.exists():
                self.disk.unlink(part)

    def _make_folders(self, folder: Path) -> None:
        """Make a folder and those above it, so that they survive a power cut."""
        missing = [place for place in (folder, *folder.parents) if not place.exists()]
        for place in reversed(missing):
            self.disk.make_folder(place)
            self.disk.sync(place.parent)
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))

    def _write_synced(self, path: Path, data: Data) -> None:
        self.disk.write(path, [data] if isinstance(data, bytes) else data)
        self.disk.sync(path)

    def _move_if_no_file(self, part: Path) -> None:
        """Give a finished file its name, unless it is taken: FileExistsError."""
        try:
            self.disk.link(part, self.path)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            # Without hard links two writers of one instant could both find the name free, and the later stands. For
            # records of shards either will do; on such a disk two ingests should not run at once (FORMAT.md says so).
            if self.path.exists():
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(self.path)) from error
            self.disk.rename(part, self.path)

    def _move_if_no_folder(self, part: Path) -> bool:
        """Move a folder here unless one with something in it has the name; the system decides, so one writer wins."""
        try:
            self.disk.rename(part, self.path)
        except OSError as error:
            if error.errno not in _TAKEN:
                raise
            return False
        return True
