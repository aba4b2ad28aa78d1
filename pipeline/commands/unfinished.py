"""The masks of a predict that was stopped: they are its own, and the same command writes them again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...stages.readers.mask_writer import MaskFile
from ...store.documents import bytes_digest


class UnfinishedMasks:
    """A hidden file beside the masks that lists those written so far; gone with the last of them.

    Parameters
    ----------
    output
        The folder of the masks.
    run_id
        Whose masks these are: another run's are not taken for its own.
    """

    def __init__(self, output: Path, run_id: str) -> None:
        self._output = output
        self._file = output / f".samkit-masks-{run_id}"

    def own(self) -> set[Path]:
        """Return the files that a call before this one wrote, or was writing, and that nobody has changed since."""
        digests: dict[str, str | None] = {}
        lines = self._file.read_text(encoding="utf-8").splitlines() if self._file.exists() else []
        for line in lines:
            try:
                name, digest = json.loads(line)
            except ValueError:  # the last one, cut off by a kill
                continue
            digests[name] = digest
        files = {self._output / name: digest for name, digest in digests.items()}
        return {
            path
            for path, digest in files.items()
            if path.exists() and digest in (None, bytes_digest(path.read_bytes()))
        }

    @contextmanager
    def writing(self, mask: MaskFile) -> Iterator[None]:
        """Note that a mask is being written, and, afterwards, what it is."""
        self._note({path.name: None for path in mask.files})
        yield
        self._note({path.name: bytes_digest(path.read_bytes()) for path in mask.files if path.exists()})

    def finish(self) -> None:
        """Take the list away: these masks are the user's now."""
        self._file.unlink(missing_ok=True)

    def _note(self, digests: dict[str, str | None]) -> None:
        with self._file.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps([name, digest]) + "\n" for name, digest in digests.items())
