"""Every kind of file in a workspace, with a byte flipped, the end cut off, or gone: found, and never read as numbers.

Three things may happen to numbers: they are those that were written, they are refused, they are missing. A fault is
*found* when opening the workspace or `samkit verify` says so.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from examples.everything import workspace_of_everything
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from samkit.store.errors import SamkitError
from samkit.store.verify import verify
from samkit.store.workspace import open_workspace

# A file of each kind, by a pattern of its path; all files of a workspace are of one of these kinds (tested).
KINDS = {
    "workspace.json": r"workspace\.json",
    "index segment": r"volumes/\d+\.jsonl",
    "index snapshot": r"volumes/\d+\.snapshot\.jsonl",
    "index head": r"volumes/head\.json",
    "image description": r"slices/(?!pack--).*/image/zarr\.json",
    "image data": r"slices/(?!pack--).*/image/\d.*",
    "label description": r"slices/(?!pack--).*/label/zarr\.json",
    "label data": r"slices/(?!pack--).*/label/\d.*",
    "pack": r"slices/pack--.*",
    "split": r"splits/.*",
    "recipe": r"embeddings/[^/]*/recipe\.json",
    "compute class": r"embeddings/[^/]*/compute\.json",
    "mask decoder": r"embeddings/[^/]*/decoder\.safetensors",
    "shard description": r"embeddings/[^/]*/features/.*/zarr\.json",
    "shard data": r"embeddings/[^/]*/features/.*/0\.0\.0\.0",
    "scales": r"embeddings/[^/]*/scales/.*",
    "journal record": r"embeddings/[^/]*/journal/\w+\.json",
    "journal segment": r"embeddings/[^/]*/journal/compacted/.*",
    "run manifest": r"runs/[^/]*/run\.json",
    "run weights": r"runs/[^/]*/head\.safetensors",
    "run steps": r"runs/[^/]*/steps\.json",
    "prediction": r"runs/[^/]*/predictions/.*",
}
# What is gone without a trace, by design: rows without a record are missing and computed again; a snapshot says what
# the segments say, the head only how long the log is; without its compute class later rows agree within the tolerance.
MAY_BE_DELETED = {"journal record", "journal segment", "index snapshot", "index head", "compute class"}


@dataclass(frozen=True)
class Known:
    """A workspace and all numbers in it."""

    path: Path
    numbers: Mapping[str, bytes]
    files: Mapping[str, list[Path]]


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Known:
    path = tmp_path_factory.mktemp("rot") / "workspace"
    workspace_of_everything(path)
    files = {
        kind: [
            file for file in sorted(path.rglob("*")) if file.is_file() and re.fullmatch(pattern, relative(file, path))
        ]
        for kind, pattern in KINDS.items()
    }
    return Known(path=path, numbers=dict(numbers_of(path)), files=files)


def relative(file: Path, path: Path) -> str:
    return file.relative_to(path).as_posix()


def numbers_of(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield everything that can be read, by name; what is refused or missing is not yielded."""
    try:
        workspace = open_workspace(path)
        volumes = workspace.volumes
    except SamkitError:
        return
    for volume_id in volumes:
        for what, read in (
            ("image", lambda v: v.read_slices(0, v.record.shape[0])),
            ("label", lambda v: v.read_label()),
        ):
            with contextlib.suppress(SamkitError):
                yield f"{volume_id} {what}", np.asarray(read(volumes[volume_id])).tobytes()
    for name in (workspace.path / "embeddings").children():
        try:
            (embeddings,) = workspace.recipes(name).values()
        except (SamkitError, ValueError):
            continue
        for volume_id in volumes:
            with contextlib.suppress(SamkitError):
                yield f"{volume_id} {name}", embeddings[volume_id].tobytes()


def found(path: Path) -> bool:
    try:
        return any(checked.fault for checked in verify(open_workspace(path)))
    except SamkitError:
        return True


def same_meaning(kind: str, before: bytes, after: bytes) -> bool:
    """Whether JSON that was changed says the same: a space became a line's end."""
    if kind in {
        "image data",
        "label data",
        "pack",
        "shard data",
        "scales",
        "prediction",
        "run weights",
        "mask decoder",
    }:
        return False
    try:
        return json.loads(before) == json.loads(after)
    except ValueError:
        return False


def test_every_file_of_a_workspace_is_of_a_kind_that_is_tried(known: Known):
    everything = {file for file in known.path.rglob("*") if file.is_file()}
    assert everything == {file for files in known.files.values() for file in files}
    assert all(known.files.values()), [kind for kind, files in known.files.items() if not files]


def test_the_workspace_is_whole_to_begin_with(known: Known):
    assert not found(known.path)
    assert len(known.numbers) == 2 * 6 + 2 * 6


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_flipped_byte(known: Known, kind: str, data: st.DataObject):
    file = data.draw(st.sampled_from(known.files[kind]))
    before = file.read_bytes()
    position = data.draw(st.integers(0, len(before) - 1))
    flip = data.draw(st.integers(1, 255))
    after = bytearray(before)
    after[position] ^= flip
    check(known, kind, file, before, bytes(after))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_cut_off_end(known: Known, kind: str, data: st.DataObject):
    file = data.draw(st.sampled_from(known.files[kind]))
    before = file.read_bytes()
    check(known, kind, file, before, before[: data.draw(st.integers(0, len(before) - 1))])


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_gone(known: Known, kind: str):
    for file in known.files[kind]:
        check(known, kind, file, file.read_bytes(), None)


def check(known: Known, kind: str, file: Path, before: bytes, after: bytes | None) -> None:
    try:
        if after is None:
            file.unlink()
        else:
            file.write_bytes(after)
        assert (
            found(known.path)
            or (after is None and kind in MAY_BE_DELETED)
            or superseded(known, file)
            or (after is not None and same_meaning(kind, before, after))
        ), f"{file} was changed and nothing says so"
        for name, numbers in numbers_of(known.path):
            assert numbers == known.numbers[name], f"{name} is read with other numbers"
    finally:
        file.write_bytes(before)


def superseded(known: Known, file: Path) -> bool:
    """Whether a segment of the index is one that a snapshot has taken the place of."""
    snapshots = [int(path.name[:8]) for path in known.files["index snapshot"]]
    return file in known.files["index segment"] and int(file.name[:8]) <= max(snapshots)
