"""Make the archive of a format: ``python -m examples.archive format-1.zip``, from ``tests/``."""

from __future__ import annotations

import json
import sys
import tempfile
import zipfile
from pathlib import Path

from samkit.store.keys import array_digest
from samkit.store.workspace import Workspace

from .everything import workspace_of_everything


def numbers_of(workspace: Workspace) -> dict[str, str]:
    """The digest of everything that a workspace says, by name."""
    numbers = {}
    for volume in workspace.volumes.values():
        label = volume.read_label()
        numbers[f"{volume.id} image"] = array_digest(volume.read_slices(0, volume.record.shape[0]))
        numbers[f"{volume.id} label"] = "none" if label is None else array_digest(label)
        for embeddings in workspace.recipes().values():
            numbers[f"{volume.id} {embeddings.folder.name}"] = array_digest(embeddings[volume.id])
    for run in workspace.runs.values():
        numbers |= {f"{run.id} {name}": array_digest(label[:]) for name, label in run.predictions.items()}
    return numbers


def main(file: Path) -> None:
    """Write the archive."""
    with tempfile.TemporaryDirectory() as name, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        workspace = workspace_of_everything(Path(name) / "workspace")
        archive.writestr("numbers.json", json.dumps(numbers_of(workspace), indent=1))
        for path in sorted(Path(name).rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(name).as_posix())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
