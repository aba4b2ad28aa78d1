"""A disk that dies: at one of the system calls that change it, with what a power cut does to the rest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from samkit.store.local import Disk


class Killed(BaseException):
    """What a kill looks like from inside: nothing that is written for errors catches it."""


class MortalDisk(Disk):
    """Counts every call, and dies before the call of a number; half of a write and half of a removal are done.

    What was written and not flushed is lost with it, as in a power cut: a file that got its final name before its
    content was flushed would be found empty.
    """

    def __init__(self, dies_at: int | None = None) -> None:
        self.calls: list[str] = []
        self._dies_at = dies_at
        self._dead = False
        self._unflushed: set[Path] = set()

    def _call(self, name: str) -> bool:
        """Return whether this is the call to die in; after it, every call is refused."""
        if self._dead:
            raise Killed
        self.calls.append(name)
        self._dead = len(self.calls) == self._dies_at
        return self._dead

    def _die(self) -> None:
        for path in self._unflushed:
            if path.is_file():
                path.write_bytes(b"")
        raise Killed

    def make_folder(self, path: Path) -> None:
        if self._call("make_folder"):
            self._die()
        super().make_folder(path)

    def write(self, path: Path, pieces: Sequence[memoryview | bytes]) -> None:
        if self._call("write"):
            path.write_bytes(bytes(pieces[0])[: len(pieces[0]) // 2])
            self._die()
        super().write(path, pieces)
        self._unflushed.add(path)

    def sync(self, path: Path) -> None:
        if self._call("sync"):
            self._die()
        super().sync(path)
        self._unflushed.discard(path)

    def rename(self, source: Path, target: Path) -> None:
        if self._call("rename"):
            self._die()
        super().rename(source, target)
        moved = {path for path in self._unflushed if path == source or source in path.parents}
        self._unflushed -= moved
        self._unflushed |= {target / path.relative_to(source) if path != source else target for path in moved}

    def link(self, source: Path, target: Path) -> None:
        if self._call("link"):
            self._die()
        super().link(source, target)
        if source in self._unflushed:
            self._unflushed.add(target)

    def unlink(self, path: Path) -> None:
        if self._call("unlink"):
            self._die()
        super().unlink(path)

    def remove_tree(self, path: Path) -> None:
        if self._call("remove_tree"):
            for file in sorted(path.rglob("*"))[::2]:
                if file.is_file():
                    file.unlink()
            self._die()
        super().remove_tree(path)

    def touch(self, path: Path) -> None:
        if self._call("touch"):
            self._die()
        super().touch(path)
