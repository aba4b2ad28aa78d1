"""Archives: whatever of a source is packed is unpacked into a scratch folder, safely, and removed again.

    a .zip or .tar (.gz, .bz2, .xz)    its content
    a folder that holds some           a shadow: every archive a folder of its stem, every other file a link to it
    anything else                      as it is; nothing is copied

Archives in archives are unpacked too, up to a depth. Nothing of an archive is trusted: names lead nowhere but into the
scratch folder, links and devices are refused, declared sizes are checked before and counted while writing, and an
archive that is refused leaves nothing behind. Names of members are not put into messages (they may name a patient):
their place in the archive is.

Formats: zip, https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT; tar, POSIX.1-2001 (pax) and GNU.
"""

from __future__ import annotations

import errno
import lzma
import os
import re
import shutil
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

from ...store.errors import DiskFull, UnreadableFile
from .dicom_headers import SUFFIXES
from .folders import is_hidden, walk, why_closed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = ["ArchiveLimits", "Unpacked", "is_archive", "unpacked"]

_ZIP = (".zip",)
_TAR = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
_COMMANDS = {".7z": "7z x", ".rar": "unrar x", **dict.fromkeys([f"{suffix}.gz" for suffix in SUFFIXES], "gunzip")}
"""What else packs files, by ending, and what unpacks that."""

_BLOCK_BYTES = 1 << 20

# What the libraries raise on damaged archives. NotImplementedError: a compression that Python has no code for.
_DAMAGE = (
    EOFError,
    IndexError,
    NotImplementedError,
    OSError,
    OverflowError,
    RuntimeError,
    ValueError,
    lzma.LZMAError,
    struct.error,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)

_ENCRYPTED = 0x1  # of a member's flags
_LOCAL_HEADER_BYTES = 30  # the least that lies before the data of a member of a zip
_METHODS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA})

# Headers of a tar that hold the name of the next member; they are read at once, and no name is that long.
_NAME_HEADERS = frozenset(
    {
        tarfile.GNUTYPE_LONGLINK,
        tarfile.GNUTYPE_LONGNAME,
        tarfile.SOLARIS_XHDTYPE,
        tarfile.XGLTYPE,
        tarfile.XHDTYPE,
    }
)
_LONGEST_NAME_HEADER_BYTES = 1 << 20
_TAR_END: type[Exception] = tarfile.EOFHeaderError  # type: ignore[attr-defined]  # public, and not in the stubs

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
_NO_NAME = frozenset({errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL})

_BY_HAND = "If you trust it, unpack it yourself and give the folder."


@dataclass(frozen=True, kw_only=True, slots=True)
class ArchiveLimits:
    """How much one source may unpack to; beyond, an archive is refused: it is damaged, or was made to fill the disk."""

    members: int = 1_000_000
    """Files, of all archives together."""
    total_bytes: int = 256 * 2**30
    """Of all archives together, archives in them included."""
    ratio: int = 1000
    """Bytes out for a byte in, of any one member and of any one archive; deflate reaches 1032 on zeros alone."""
    ratio_bytes: int = 100_000_000
    """What may be larger by any ratio: up to here an empty mask is an empty mask."""
    depth: int = 4
    """Archives in archives in archives in archives."""


_DEFAULT_LIMITS = ArchiveLimits()


@dataclass(frozen=True, kw_only=True, slots=True)
class Unpacked:
    """A source, all of it readable."""

    root: Path
    """The folder to look in (or the file, where the source is one and no archive): the source itself where nothing was
    packed, else a folder of links and unpacked files that is removed in the end."""
    told: tuple[str, ...]
    """What was done, one sentence each, for the terminal."""
    refused: tuple[tuple[str, str], ...]
    """(path as shown, reason) of the archives that were not unpacked; for the terminal only."""
    places: Mapping[Path, str] = field(default_factory=dict, repr=False)
    """For each folder in `root` that something was unpacked into, and for `root` itself, what it stands for."""

    def logical(self, path: Path) -> str:
        """Return which file this is, in words that are the same in every run; for hashing only.

        Parameters
        ----------
        path
            `root`, or a file or folder in it.

        Returns
        -------
        str
            Of a file that was not packed, its resolved path; else ``ARCHIVE!/MEMBER``, where ARCHIVE is the resolved
            path of the archive (itself of this form where it lies in another one).
        """
        real = path.resolve()
        place = next((folder for folder in (real, *real.parents) if folder in self.places), None)
        if place is None:
            return str(real)
        inside = real.relative_to(place).as_posix()
        return self.places[place] if inside == "." else f"{self.places[place]}/{inside}"


def is_archive(path: Path) -> bool:
    """Tell by its ending whether a file packs others, in a form that is unpacked here."""
    return path.name.lower().endswith((*_ZIP, *_TAR))


@contextmanager
def unpacked(
    source: Path,
    scratch: Path,
    *,
    limits: ArchiveLimits = _DEFAULT_LIMITS,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Unpacked]:
    """Unpack what is packed, for as long as the context lasts.

    Parameters
    ----------
    source
        An archive, a folder, or any other file.
    scratch
        Where there is room. A folder that only the user can read is made in it, if something is to be unpacked, and
        removed in the end.
    limits
        How much may be unpacked.
    progress
        Called with the bytes written and the bytes known so far that have to be.

    Yields
    ------
    Unpacked
        Hidden files and ``__MACOSX`` are left out of it. An archive beside a folder of its stem is taken to be unpacked
        there already.

    Raises
    ------
    DiskFull
        There is less room in `scratch` than the archives unpack to.
    UnreadableFile
        The source is an archive and is damaged, encrypted, of a kind that is not unpacked, beyond the limits, or holds
        names or links that lead out of it. Of a folder, such an archive is a row of `refused`.
    """
    if source.is_file() and not _is_packed(source):
        yield Unpacked(root=source, told=(), refused=())
        return
    listing = _Listing.of(source)
    if not listing.archives:
        yield Unpacked(root=source, told=listing.told, refused=tuple(listing.refused))
        return
    scratch.mkdir(parents=True, exist_ok=True)
    # mkdtemp: mode 0700. Resolved, so that what others resolve still lies in it.
    top = Path(tempfile.mkdtemp(prefix="unpacked-", dir=scratch)).resolve()
    try:
        work = _Unpacking(scratch=top, limits=limits, progress=progress)
        yield work.of_archive(source) if source.is_file() else work.of_folder(source, listing)
    finally:
        shutil.rmtree(top, ignore_errors=True)


class _RefusedError(Exception):
    """Why an archive is not unpacked; the message is a sentence without the archive's name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Listing:
    """What of a folder is packed."""

    archives: list[Path] = field(default_factory=list)
    """Sorted."""
    beside: list[Path] = field(default_factory=list)
    """Archives that have been unpacked already, relative to the folder."""
    refused: list[tuple[str, str]] = field(default_factory=list)
    closed: list[tuple[str, str]] = field(default_factory=list)
    """Folders that cannot be listed: whoever looks at the source itself meets them again, and its shadow has none."""

    @classmethod
    def of(cls, source: Path) -> Self:
        """List the archives in a folder, or the one that the source is.

        Raises
        ------
        UnreadableFile
            The source is an archive of a kind that is not unpacked here.
        """
        found = cls()
        if source.is_file():
            if not is_archive(source):
                message = f"{source}: {_not_unpacked_here(source)}"
                raise UnreadableFile(message)
            found.archives.append(source)
            return found
        others: list[Path] = []

        def note(error: OSError) -> None:
            found.closed.append((_shown(Path(error.filename).relative_to(source)), why_closed(error)))

        for folder, subfolders, names in walk(source, onerror=note):
            for name in names:
                path = folder / name
                if not is_archive(path):
                    others += [path.relative_to(source)] if _is_packed(path) else []
                elif _stem(name) in subfolders:
                    found.beside.append(path.relative_to(source))
                else:
                    found.archives.append(path)
        found.refused.extend(_not_unpacked_rows(others))
        return found

    @property
    def told(self) -> tuple[str, ...]:
        """Say which archives are passed over."""
        return _told_beside([_shown(path) for path in self.beside])


@dataclass(frozen=True, kw_only=True, slots=True)
class _Packed:
    """An archive that is to be unpacked."""

    file: Path
    into: Path
    """The folder that gets its content; does not exist yet."""
    logical: str
    shown: str
    depth: int
    """1 for one that lies on the disk of the user, 2 for one in that."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Member:
    """A file in an archive that is to be written."""

    position: int
    """In the archive, from 1; what messages say instead of its name."""
    parts: tuple[str, ...]
    """Its path, in parts that lead nowhere else."""
    size_bytes: int
    """As declared."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _ZipMember(_Member):
    info: zipfile.ZipInfo


@dataclass(kw_only=True, slots=True)
class _Unpacking:
    """Unpacks archives, keeping count over all of them."""

    scratch: Path
    limits: ArchiveLimits
    progress: Callable[[int, int], None] | None
    archives: int = 0
    members: int = 0
    written_bytes: int = 0
    known_bytes: int = 0
    """What has been written, and what is known to follow."""
    places: dict[Path, str] = field(default_factory=dict)
    beside: list[str] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    waiting: deque[_Packed] = field(default_factory=deque)

    def of_archive(self, source: Path) -> Unpacked:
        """Unpack an archive; one in it that cannot be is a row, it itself an error."""
        into = self.scratch / _stem(source.name)
        packed = _Packed(file=source, into=into, logical=f"{source.resolve()}!", shown=source.name, depth=1)
        try:
            self._check_room([packed])
            self._unpack(packed)
        except _RefusedError as error:
            message = f"{source}: {error}"
            raise UnreadableFile(message) from error
        self._unpack_waiting()
        # A folder packed as a whole: unpacked into a folder of its name, that name is there twice.
        again = into / into.name
        return self._unpacked(again if again.is_dir() and list(into.iterdir()) == [again] else into)

    def of_folder(self, source: Path, listing: _Listing) -> Unpacked:
        """Make the shadow of a folder, and unpack its archives into it."""
        real = source.resolve()
        shadow = self.scratch / (real.name or "root")
        self.places[shadow] = str(real)
        packed_files = set(listing.archives)
        for folder, subfolders, names in walk(source):
            here = shadow / folder.relative_to(source)
            here.mkdir(mode=0o700)
            if folder.is_symlink():
                self.places[here] = str(folder.resolve())
            links = [name for name in names if not _is_packed(folder / name)]
            for name in links:
                (here / name).symlink_to(os.path.realpath(folder / name))
            taken = {*subfolders, *links}
            self.waiting += [
                _Packed(
                    file=folder / name,
                    into=here / _free_name(name, taken),
                    logical=f"{(folder / name).resolve()}!",
                    shown=_shown((folder / name).relative_to(source)),
                    depth=1,
                )
                for name in names
                if folder / name in packed_files
            ]
        self.refused += [*listing.refused, *listing.closed]
        self.beside += [_shown(path) for path in listing.beside]
        self._check_room(list(self.waiting))
        self._unpack_waiting()
        return self._unpacked(shadow)

    def _unpacked(self, root: Path) -> Unpacked:
        size = _readable(self.written_bytes)
        done = f"{_counted(self.archives, 'archive')} unpacked: {_counted(self.members, 'file')}, {size}"
        told = (done, *_told_beside(self.beside)) if self.archives else _told_beside(self.beside)
        return Unpacked(root=root, told=told, refused=tuple(sorted(self.refused)), places=self.places)

    def _unpack_waiting(self) -> None:
        while self.waiting:
            packed = self.waiting.popleft()
            try:
                self._unpack(packed)
            except _RefusedError as error:
                self.refused.append((packed.shown, str(error)))
            if packed.depth > 1:
                packed.file.unlink()  # what was in it has been written, or never will be

    def _check_room(self, archives: list[_Packed]) -> None:
        """Refuse to begin what the disk has no room for, as far as the archives tell before they are read."""
        needed_bytes = 0
        for packed in archives:
            if _is_tar(packed.file):
                needed_bytes += _size_bytes(packed.file)  # the least that it can be
                continue
            try:
                with _open_zip(packed.file) as file:
                    self.known_bytes += sum(member.size_bytes for member in _checked(file, self.limits))
            except _RefusedError:
                continue  # is said when its turn comes
        self._refuse_if_full(needed_bytes + self.known_bytes)

    def _refuse_if_full(self, needed_bytes: int) -> None:
        free_bytes = shutil.disk_usage(self.scratch).free
        if needed_bytes > free_bytes:
            raise DiskFull(_no_room(self.scratch.parent, needed_bytes, free_bytes))

    def _unpack(self, packed: _Packed) -> None:
        """Unpack one archive, whole or not at all, and note the archives in it."""
        if packed.depth > self.limits.depth:
            message = f"it lies in {packed.depth - 1} archives; up to {self.limits.depth} deep are unpacked. {_BY_HAND}"
            raise _RefusedError(message)
        before = (self.members, self.written_bytes)
        packed.into.mkdir(mode=0o700)
        written = _Written(folder=packed.into)
        try:
            if _is_tar(packed.file):
                self._unpack_tar(packed, written)
            else:
                self._unpack_zip(packed, written)
        except _RefusedError:
            shutil.rmtree(packed.into)
            self.members, self.written_bytes = before
            raise
        self.archives += 1
        self.places[packed.into] = packed.logical
        self._note_archives_in(packed, written)

    def _note_archives_in(self, packed: _Packed, written: _Written) -> None:
        taken: dict[tuple[str, ...], set[str]] = {}
        for parts in [*written.files, *written.folders]:
            taken.setdefault(parts[:-1], set()).update(parts[-1:])
        others: list[Path] = []
        for parts in sorted(written.files):
            *folder, name = parts
            file = packed.into.joinpath(*parts)
            shown = f"{packed.shown}/{_shown(Path(*parts))}"
            if not is_archive(file):
                others += [Path(*parts)] if _is_packed(file) else []
            elif (*folder, _stem(name)) in written.folders:
                self.beside.append(shown)
                file.unlink()
            else:
                self.waiting.append(
                    _Packed(
                        file=file,
                        into=file.parent / _free_name(name, taken[tuple(folder)]),
                        logical=f"{packed.logical}/{'/'.join(parts)}!",
                        shown=shown,
                        depth=packed.depth + 1,
                    )
                )
        self.refused += [(f"{packed.shown}/{shown}", reason) for shown, reason in _not_unpacked_rows(others)]

    def _unpack_zip(self, packed: _Packed, written: _Written) -> None:
        with _open_zip(packed.file) as file:
            members = _checked(file, self.limits)
            if packed.depth > 1:
                own_bytes = sum(member.size_bytes for member in members)
                self.known_bytes += own_bytes
                self._refuse_if_full(own_bytes)
            for member in members:
                self._count(member.position, member.size_bytes)
                try:
                    stream = file.open(member.info)
                except _DAMAGE as error:
                    raise _RefusedError(_damaged(packed.file, member.position)) from error
                with stream:
                    self._write(packed, written, member, stream)

    def _unpack_tar(self, packed: _Packed, written: _Written) -> None:
        own_bytes, archive_bytes = 0, _size_bytes(packed.file)
        try:
            # "|": from beginning to end. A tar has no list of its members, and one that is compressed no way back.
            file = tarfile.open(packed.file, "r|*", tarinfo=_StrictTarInfo)  # noqa: SIM115 (closed below)
        except _DAMAGE as error:
            raise _RefusedError(_damaged(packed.file, None)) from error
        with file:
            for position, info in _tar_members(packed.file, file):
                own_bytes += info.size
                if own_bytes > max(self.limits.ratio_bytes, self.limits.ratio * archive_bytes):
                    raise _RefusedError(_bomb(f"member {position}", own_bytes, archive_bytes, self.limits))
                parts = _safe_parts(info.name, position)
                if info.isdir():
                    continue
                _check_tar_kind(info, position)
                if _is_hidden(parts):
                    continue
                self.known_bytes += info.size
                self._refuse_if_full(info.size)
                self._count(position, info.size)
                stream = file.extractfile(info)
                if stream is not None:  # it is of a regular file
                    self._write(packed, written, _Member(position=position, parts=parts, size_bytes=info.size), stream)

    def _count(self, position: int, size_bytes: int) -> None:
        """Count a member before it is written."""
        self.members += 1
        if self.members > self.limits.members:
            raise _RefusedError(_too_many(self.limits, position))
        if self.written_bytes + size_bytes > self.limits.total_bytes:
            raise _RefusedError(_too_large(self.limits, position))

    def _write(self, packed: _Packed, written: _Written, member: _Member, stream: IO[bytes]) -> None:
        """Write one member: just as many bytes as it declared."""
        left_bytes = member.size_bytes
        try:
            with written.create(member) as target:
                while block := _read(packed.file, stream, member.position):
                    left_bytes -= len(block)
                    if left_bytes < 0:
                        raise _RefusedError(_damaged(packed.file, member.position))
                    target.write(block)
                    self.written_bytes += len(block)
                    if self.progress is not None:
                        self.progress(self.written_bytes, max(self.known_bytes, self.written_bytes))
        except OSError as error:
            if error.errno in _NO_ROOM:
                free_bytes = shutil.disk_usage(self.scratch).free
                raise DiskFull(_no_room(self.scratch.parent, member.size_bytes, free_bytes)) from error
            if error.errno in _NO_NAME:
                message = f"the name of member {member.position} is one that this disk cannot hold. {_BY_HAND}"
                raise _RefusedError(message) from error
            raise
        if left_bytes:
            raise _RefusedError(_damaged(packed.file, member.position))


@dataclass(kw_only=True, slots=True)
class _Written:
    """The files of one archive that have been written."""

    folder: Path
    files: dict[tuple[str, ...], int] = field(default_factory=dict)
    """Positions by path."""
    folders: set[tuple[str, ...]] = field(default_factory=lambda: {()})

    def create(self, member: _Member) -> IO[bytes]:
        """Open a new file for writing, its folders made; refuse a name that is taken."""
        self._make_folders(member.parts[:-1], member.position)
        try:
            # O_EXCL: never into something that is there, and never through a link. It also finds names that are two
            # for an archive and one for this disk (capitals, composed accents).
            handle = os.open(self.folder.joinpath(*member.parts), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except (FileExistsError, IsADirectoryError) as error:
            raise _RefusedError(_collision(member.position, self.files.get(member.parts))) from error
        self.files[member.parts] = member.position
        return os.fdopen(handle, "wb")

    def _make_folders(self, parts: tuple[str, ...], position: int) -> None:
        if parts in self.folders:
            return
        self._make_folders(parts[:-1], position)
        folder = self.folder.joinpath(*parts)
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError as error:
            if not folder.is_dir():
                raise _RefusedError(_collision(position, self.files.get(parts))) from error
        self.folders.add(parts)


class _StrictTarInfo(tarfile.TarInfo):
    """Takes a damaged header for damage: `tarfile` takes it for the end, and what follows would be lost in silence."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> Self:
        """Read the next header."""
        try:
            return super().fromtarfile(tarfile_)
        except _TAR_END:
            raise
        except tarfile.HeaderError as error:
            message = "damaged header"
            raise tarfile.ReadError(message) from error

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """Read a header, and refuse one that makes the library read any amount at once."""
        info = super().frombuf(buf, encoding, errors)
        if info.size < 0 or (info.type in _NAME_HEADERS and info.size > _LONGEST_NAME_HEADER_BYTES):
            message = "damaged header"
            raise tarfile.ReadError(message)
        return info


def _tar_members(path: Path, file: tarfile.TarFile) -> Iterator[tuple[int, tarfile.TarInfo]]:
    """Yield (position, member), each to be read before the next."""
    position = 1
    while True:
        try:
            info = file.next()
        except _DAMAGE as error:
            raise _RefusedError(_damaged(path, position)) from error
        if info is None:
            return
        yield position, info
        position += 1
        file.members.clear()  # type: ignore[attr-defined]  # else the library keeps every header


@contextmanager
def _open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        file = zipfile.ZipFile(path)
    except _DAMAGE as error:
        raise _RefusedError(_damaged(path, None)) from error
    with file:
        yield file


def _read(path: Path, stream: IO[bytes], position: int) -> bytes:
    try:
        return stream.read(_BLOCK_BYTES)
    except _DAMAGE as error:
        raise _RefusedError(_damaged(path, position)) from error


# -- what is refused before a byte is written ------------------------------------------------------


def _checked(file: zipfile.ZipFile, limits: ArchiveLimits) -> list[_ZipMember]:
    """Return the members of a zip that are to be written, by what its central directory says of all of them."""
    infos = file.infolist()
    if len(infos) > limits.members:
        raise _RefusedError(_too_many(limits, limits.members + 1))
    _check_overlaps(file, infos)
    members: dict[tuple[str, ...], _ZipMember] = {}
    total_bytes = packed_bytes = 0
    for position, info in enumerate(infos, start=1):
        parts = _safe_parts(info.filename, position)
        _check_zip_kind(info, position)
        if _is_folder(info) or _is_hidden(parts):
            continue
        if info.file_size > max(limits.ratio_bytes, limits.ratio * info.compress_size):
            raise _RefusedError(_bomb(f"member {position}", info.file_size, info.compress_size, limits))
        total_bytes += info.file_size
        packed_bytes += info.compress_size
        if total_bytes > limits.total_bytes:
            raise _RefusedError(_too_large(limits, position))
        earlier = members.get(parts)
        if earlier is None:
            members[parts] = _ZipMember(position=position, parts=parts, size_bytes=info.file_size, info=info)
        elif (earlier.info.CRC, earlier.info.file_size) != (info.CRC, info.file_size):
            raise _RefusedError(_collision(position, earlier.position))
    if total_bytes > max(limits.ratio_bytes, limits.ratio * packed_bytes):
        raise _RefusedError(_bomb("it", total_bytes, packed_bytes, limits))
    return list(members.values())


def _check_overlaps(file: zipfile.ZipFile, infos: list[zipfile.ZipInfo]) -> None:
    """Refuse members that share bytes: so a few kilobytes are made to count a thousand times."""
    ends = sorted((info.header_offset, info.header_offset + _LOCAL_HEADER_BYTES + info.compress_size) for info in infos)
    starts = [start for start, _ in ends[1:]] + [file.start_dir]
    if any(end > start for (_, end), start in zip(ends, starts, strict=False)):
        message = f"its members lie over one another, as in a decompression bomb or a damaged file. {_BY_HAND}"
        raise _RefusedError(message)


def _safe_parts(name: str, position: int) -> tuple[str, ...]:
    """Return the parts of a member's path, none of which leads out of the folder; empty for the folder itself."""
    parts = tuple(part for part in name.split("/") if part not in {"", "."})
    if name.startswith("/") or re.match("[A-Za-z]:", name):
        why = "an absolute path"
    elif ".." in parts:
        why = "a path that leads out of the archive (..)"
    elif "\\" in name:
        why = "a path with backslashes, as some Windows tools wrongly write them"
    elif "\0" in name:
        why = "a path with a null byte"
    else:
        return parts
    message = f"member {position} has {why}; nothing of it was unpacked. {_BY_HAND}"
    raise _RefusedError(message)


def _check_zip_kind(info: zipfile.ZipInfo, position: int) -> None:
    # The upper half is the mode of a Unix file, 0 where the archive was made elsewhere.
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in {0, stat.S_IFREG, stat.S_IFDIR}:
        raise _RefusedError(_no_file(position, is_link=stat.S_ISLNK(kind)))
    if info.flag_bits & _ENCRYPTED:
        message = f"member {position} is encrypted. Unpack it with its password (7z x FILE), and give the folder."
        raise _RefusedError(message)
    if info.compress_type not in _METHODS:
        message = (
            f"member {position} is compressed by method {info.compress_type}, for which Python has no code (9 is what "
            f"Windows takes for large files). Unpack it first (7z x FILE), and give the folder."
        )
        raise _RefusedError(message)
    if not _is_folder(info) and not _safe_parts(info.filename, position):
        message = f"member {position} has no name. {_BY_HAND}"
        raise _RefusedError(message)


def _is_folder(info: zipfile.ZipInfo) -> bool:
    return info.filename.endswith("/")  # is_dir() of the library fails on an empty name (Python 3.11)


def _check_tar_kind(info: tarfile.TarInfo, position: int) -> None:
    if not info.isreg():
        raise _RefusedError(_no_file(position, is_link=info.issym() or info.islnk()))
    if not _safe_parts(info.name, position):
        message = f"member {position} has no name. {_BY_HAND}"
        raise _RefusedError(message)


# -- names -----------------------------------------------------------------------------------------


def _is_hidden(parts: tuple[str, ...]) -> bool:
    return any(map(is_hidden, parts))


def _is_packed(path: Path) -> bool:
    return path.name.lower().endswith((*_ZIP, *_TAR, *_COMMANDS))


def _is_tar(path: Path) -> bool:
    return path.name.lower().endswith(_TAR)


def _stem(name: str) -> str:
    """Return an archive's name without its ending; the whole name where nothing but dots would be left."""
    ending = max((ending for ending in (*_ZIP, *_TAR) if name.lower().endswith(ending)), key=len)
    return name[: len(name) - len(ending)].rstrip(". ") or name


def _free_name(name: str, taken: set[str]) -> str:
    """Return the name of the folder that an archive's content goes into, and take it: its stem, if that is free."""
    stem = _stem(name)
    free = next(
        candidate
        for candidate in chain([stem], (f"{stem}.unpacked{number}" for number in count(1)))
        if candidate not in taken
    )
    taken.add(free)
    return free


def _shown(path: Path) -> str:
    """Return a path for the terminal: what a name may hold besides letters could move its cursor."""
    return "".join(one if one.isprintable() else "?" for one in path.as_posix())


def _size_bytes(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


# -- what is said ----------------------------------------------------------------------------------


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _readable(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.3g} GB" if size_bytes >= 1e8 else f"{size_bytes / 1e6:.3g} MB"


def _told_beside(shown: list[str]) -> tuple[str, ...]:
    if not shown:
        return ()
    some = ", ".join(shown[:3]) + (", ..." if len(shown) > 3 else "")
    return (
        f"{_counted(len(shown), 'archive')} beside a folder of that name: taken as unpacked there already ({some})",
    )


def _damaged(path: Path, position: int | None) -> str:
    where = "" if position is None else f" at member {position}"
    return (
        f"it is truncated or damaged{where}, or not what its name says ({_size_bytes(path)} bytes). A download or copy "
        f"that stopped early is the usual cause: copy it again, and compare sizes."
    )


def _collision(position: int, earlier: int | None) -> str:
    other = "an earlier one" if earlier is None else f"member {earlier}"
    return f"member {position} has the path of {other} (on this disk), and is another file. {_BY_HAND}"


def _no_file(position: int, *, is_link: bool) -> str:
    kind = "a link" if is_link else "a device or a pipe"
    return f"member {position} is {kind}; files and folders are unpacked here. {_BY_HAND}"


def _bomb(what: str, unpacked_bytes: int, packed_bytes: int, limits: ArchiveLimits) -> str:
    return (
        f"{what} unpacks to {unpacked_bytes:,} bytes from {packed_bytes:,}, above {limits.ratio} for one, as a "
        f"decompression bomb does. {_BY_HAND}"
    )


def _too_many(limits: ArchiveLimits, position: int) -> str:
    return f"with member {position} there are more than {limits.members:,} packed files in the source. {_BY_HAND}"


def _too_large(limits: ArchiveLimits, position: int) -> str:
    return (
        f"with member {position} the source unpacks to more than {limits.total_bytes / 2**30:.4g} GiB, the most that "
        f"is unpacked here. {_BY_HAND}"
    )


def _not_unpacked_here(path: Path) -> str:
    ending = next(ending for ending in _COMMANDS if path.name.lower().endswith(ending))
    kind = f"a file compressed by gzip ({ending})" if ending.endswith(".gz") else f"a {ending} archive"
    return f"{kind} is not unpacked here. Unpack it first ({_COMMANDS[ending]} FILE), and give the folder."


def _not_unpacked_rows(paths: list[Path]) -> list[tuple[str, str]]:
    """Return a row for each folder that holds files which are not unpacked here: a series may be hundreds of them."""
    alike: dict[tuple[Path, str], list[Path]] = {}
    for path in paths:
        alike.setdefault((path.parent, _not_unpacked_here(path)), []).append(path)
    return [
        (_shown(files[0]), reason if len(files) == 1 else f"{reason} {len(files) - 1} more beside it are like that.")
        for (_, reason), files in alike.items()
    ]


def _no_room(scratch: Path, needed_bytes: int, free_bytes: int) -> str:
    return (
        f"{scratch}: unpacking takes {_readable(needed_bytes)} at least, and {_readable(free_bytes)} are free. "
        f"Free some space, name a folder on another disk for temporary files (TMPDIR=FOLDER), or unpack the archives "
        f"yourself where there is room, and give that folder."
    )
