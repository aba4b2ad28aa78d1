"""The shelf: the user's own checkpoints, kept by digest, so that later commands find what an earlier one used.

A folder (``SAMKIT_WEIGHTS``, else the platform's data directory). A file on it is named by the
sha256 of its bytes, with a note beside it: which encoder it belongs to, and the name by which the
catalogue knows it. Files appear whole: hidden names, a flush, a rename.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs

from ...store.documents import read_json, readable_json
from ...store.errors import DamagedStore, WeightsError
from ...store.local import PART_SUFFIX, Disk, LocalPlace
from .catalogue import KnownWeights, name_of
from .digests import file_digests
from .room import check_room, copy_file

# Fewer digits of a digest name a checkpoint by accident.
_LEAST_DIGITS = 6
_DISK = Disk()


@dataclass(frozen=True, kw_only=True, slots=True)
class ShelvedWeights:
    """One checkpoint on the shelf."""

    encoder: str
    sha256: str
    path: Path
    size_bytes: int
    #: The catalogue's name; None for a checkpoint that somebody trained.
    name: str | None = None

    @property
    def told(self) -> str:
        """What `--weights` takes for it: its name, or the first digits of its digest."""
        return self.name or self.sha256[:16]


class WeightsShelf:
    """The user's checkpoints, found by digest, by name, or by the encoder they belong to."""

    def __init__(self, folder: Path | None = None) -> None:
        default = os.environ.get("SAMKIT_WEIGHTS") or platformdirs.user_data_path("samkit") / "weights"
        self.folder = Path(default) if folder is None else folder

    def __iter__(self) -> Iterator[ShelvedWeights]:
        """Yield what is there, the one added last at the end."""
        for note in sorted(self.folder.glob("[!.]*.json"), key=lambda path: path.stat().st_mtime_ns):
            kept = _read_note(note)
            path = self.folder / kept["file"]
            if path.exists():
                yield ShelvedWeights(
                    encoder=kept["encoder"],
                    sha256=note.stem,
                    path=path,
                    size_bytes=_size_bytes(path),
                    name=kept.get("name") or name_of(sha256=note.stem),
                )

    # -- finding -----------------------------------------------------------------------------------

    def find(
        self, *, sha256: str | None = None, name: str | None = None, encoder: str | None = None
    ) -> ShelvedWeights | None:
        """Return the checkpoint of a digest or of a catalogue's name, None where it is not there.

        Of an encoder alone, what its name stands for: its official checkpoint where that is there, else the only one
        that somebody trained. Never a published one of another name (MedSAM's is not SAM's), and never one of several.

        Raises
        ------
        WeightsError
            When several could be meant.
        """
        fitting = [
            kept
            for kept in self
            if sha256 in (None, kept.sha256) and name in (None, kept.name) and encoder in (None, kept.encoder)
        ]
        if encoder is None or sha256 is not None or name is not None:
            return fitting[-1] if fitting else None
        official = [kept for kept in fitting if kept.name == encoder]
        if official:
            return official[-1]
        own = [kept for kept in fitting if kept.name is None]
        if len(own) > 1:
            message = (
                f"{len(own)} checkpoints of {encoder} are on the shelf ({self.folder}). Say which: --weights "
                f"{' or '.join(kept.told for kept in own)}"
            )
            raise WeightsError(message)
        return own[0] if own else None

    def named(self, word: str) -> ShelvedWeights | None:
        """Return the checkpoint that a user means by a name of the catalogue or by the first digits of a digest.

        Raises
        ------
        WeightsError
            When the digits fit several.
        """
        kept = self.find(name=word)
        if kept is not None or len(word) < _LEAST_DIGITS:
            return kept
        fitting = [kept for kept in self if kept.sha256.startswith(word.lower())]
        if len(fitting) > 1:
            message = f"--weights {word}: fits {', '.join(kept.sha256 for kept in fitting)}. Give more digits."
            raise WeightsError(message)
        return fitting[0] if fitting else None

    # -- adding ------------------------------------------------------------------------------------

    def add(self, file: Path) -> ShelvedWeights:
        """Check a checkpoint and copy it to the shelf; the same bytes are kept once.

        Raises
        ------
        WeightsError
            When it is no checkpoint that samkit can use.
        DiskFull
            When the disk of the shelf has no room for it.
        """
        from .checkpoints import look_into  # and torch with it, which finding and getting do without

        encoder = look_into(file).encoder
        if encoder is None:
            message = f"{file}: an image encoder of a size that samkit does not know (sam_vit_b, _l, _h, nano)."
            raise WeightsError(message)
        sha256, md5 = file_digests(file)
        name = name_of(sha256=sha256, md5=md5)
        kept = self._path_of(sha256, file.suffix)
        if not kept.exists() or file_digests(kept)[0] != sha256:  # or the disk has changed it since
            check_room(self.folder, file.stat().st_size, file.name)
            self._copy(file, kept, sha256)
        self._note(kept, sha256=sha256, encoder=encoder, name=name)
        return ShelvedWeights(encoder=encoder, sha256=sha256, path=kept, size_bytes=kept.stat().st_size, name=name)

    def check(self, file: Path | None, sha256: str) -> None:
        """Refuse a checkpoint of the shelf whose bytes are no longer those that it is named by.

        Parameters
        ----------
        file
            What was loaded, from wherever; None for a seed.
        sha256
            Of its bytes as they are.

        Raises
        ------
        WeightsError
            With what brings it again.
        """
        if file is None or file.parent != self.folder or file.stem == sha256:
            return
        name = next((kept.name for kept in self if kept.path == file), None)
        again = "samkit weights add FILE, with another copy" if name is None else f"samkit weights get {name}"
        message = (
            f"{file}: its bytes have changed since they were put on the shelf (sha256 {sha256[:16]}.. and not "
            f"{file.stem[:16]}..): a disk fault, or another program. Bring it again: {again}"
        )
        raise WeightsError(message)

    def take(self, file: Path, known: KnownWeights, sha256: str) -> ShelvedWeights:
        """Move a checked file of the shelf's own folder, which nobody else knows, to its final name."""
        kept = self._path_of(sha256, Path(known.file_name).suffix)
        size_bytes = file.stat().st_size
        _DISK.sync(file)
        # The note first: without its file it counts for nothing, and a file without its note would be brought again.
        self._note(kept, sha256=sha256, encoder=known.encoder, name=known.name)
        _DISK.rename(file, kept)
        _DISK.sync(self.folder)
        return ShelvedWeights(encoder=known.encoder, sha256=sha256, path=kept, size_bytes=size_bytes, name=known.name)

    def remember(self, folder: Path, *, sha256: str, encoder: str) -> None:
        """Note where a folder of weights lies, without a copy: it is found by its digest for as long as it is there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        content = {"encoder": encoder, "file": str(folder.absolute()), "name": None}
        LocalPlace(self.folder / f"{sha256}.json").publish(readable_json(content))

    def remove(self, kept: ShelvedWeights) -> None:
        """Take a checkpoint and its note off the shelf; a folder that is only remembered stays where it is."""
        LocalPlace(self.folder / f"{kept.sha256}.json").remove()
        if kept.path.parent == self.folder:
            LocalPlace(kept.path).remove()

    def part_of(self, known: KnownWeights) -> Path:
        """Return the hidden folder in which a published checkpoint grows while it is got."""
        return self.folder / f".{known.file_name}{PART_SUFFIX}"

    def size_of_part(self, known: KnownWeights) -> int:
        """Return how many bytes of a published checkpoint an earlier try has left."""
        begun = self.part_of(known) / "bytes"
        return begun.stat().st_size if begun.is_file() else 0

    def _path_of(self, sha256: str, suffix: str) -> Path:
        return self.folder / f"{sha256}{'.safetensors' if suffix == '.safetensors' else '.pth'}"

    def _copy(self, file: Path, kept: Path, sha256: str) -> None:
        """Copy a file here under a hidden name, and publish the copy if it is what was looked at."""
        self.folder.mkdir(parents=True, exist_ok=True)
        part = kept.with_name(f".{kept.name}.{uuid.uuid4().hex[:8]}{PART_SUFFIX}")
        try:
            copy_file(file, part)
            if file_digests(part)[0] != sha256:
                message = f"{file}: changed while it was copied to the shelf. Add it again when it is finished."
                raise WeightsError(message)
            _DISK.sync(part)
            _DISK.rename(part, kept)
        finally:
            _DISK.unlink(part)

    def _note(self, kept: Path, *, sha256: str, encoder: str, name: str | None) -> None:
        content = {"encoder": encoder, "file": kept.name, "name": name}
        LocalPlace(self.folder / f"{sha256}.json").publish(readable_json(content))


def _size_bytes(path: Path) -> int:
    """Return the bytes of a checkpoint; of a folder that was remembered, of all its files."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def _read_note(note: Path) -> dict[str, Any]:
    kept = read_json(LocalPlace(note))
    if isinstance(kept, dict) and {"encoder", "file"} <= kept.keys():
        return kept
    message = f"{note}: not a note of samkit's. Remove it, and add its checkpoint again: samkit weights add FILE"
    raise DamagedStore(message)
