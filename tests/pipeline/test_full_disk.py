"""A disk that really fills up: one clear message, exit code 1, what was finished before is intact, and it goes on."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import samkit as package
from samkit.stages.encoders.nano import NANO

EMBED = ("embed", "--size", "64")
NANO_DECODER_BYTES = len(NANO.load(NANO.own_weights).mask_decoder.to_bytes())


@dataclass(frozen=True)
class SmallDisk:
    """A file system of a few megabytes in memory."""

    path: Path

    def resize(self, kilobytes: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", str(self.path)], check=True)

    def leave_free(self, count: int) -> Path:
        """Fill the disk with one file but for ``count`` bytes."""
        filler = self.path / "filler"
        filler.write_bytes(bytes(shutil.disk_usage(self.path).free - count))
        return filler


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    place = tmp_path / "disk"
    place.mkdir()
    tried = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(place)], capture_output=True, check=False
    )
    if not tried or tried.returncode:
        pytest.skip("a small file system cannot be mounted here (it takes root)")
    yield SmallDisk(place)
    subprocess.run(["umount", str(place)], check=True)


@pytest.fixture
def workspace(small_disk: SmallDisk, samkit: Callable[..., object], write_pair: Callable[..., None], tmp_path: Path):
    for seed, name in enumerate(("a", "b")):
        write_pair(tmp_path / "data", name, seed=seed)
    assert samkit("ingest", tmp_path / "data", "--workspace", small_disk.path / "w").code == 0
    return small_disk.path / "w"


def test_embedding_what_the_disk_has_no_room_for_is_refused_before_it_begins(samkit, small_disk, workspace):
    small_disk.leave_free(NANO_DECODER_BYTES + 45_000)  # eight rows of 8 kB need 66 kB
    ended = samkit(*EMBED, "--workspace", workspace)
    assert ended.code == 1
    assert "the rows to compute take 65.5 kB and" in ended.said
    assert "none was begun. Free some space, name a --workspace on another disk" in ended.said
    assert len(package.open_workspace(workspace).embeddings("nano").journal) == 0


def test_a_disk_that_fills_up_while_embedding_is_one_message_and_the_same_command_goes_on(
    samkit, small_disk, workspace, files_of
):
    before = files_of(workspace)
    filler = small_disk.leave_free(1_000_000)
    ended = samkit(*EMBED, "--workspace", workspace)
    assert ended.code == 1
    assert ended.err.count("error:") == 1
    assert "The disk is full" in ended.said
    assert "Everything that was finished before is intact" in ended.said
    assert {name: data for name, data in files_of(workspace).items() if name in before} == before

    filler.unlink()
    assert samkit(*EMBED, "--workspace", workspace).code == 0
    assert samkit("status", "--workspace", workspace).code == 0


def test_a_disk_that_fills_up_while_ingesting_keeps_the_volumes_that_were_finished(
    samkit, small_disk, write_pair, tmp_path
):
    for seed in range(4):
        write_pair(tmp_path / "data", f"p{seed}", seed=seed, shape=(128, 128, 24), affine=np.diag([1.0, 1, 2, 1]))
    small_disk.resize(1800)  # each volume takes about 650 kB
    ingest = ("ingest", tmp_path / "data", "--workspace", small_disk.path / "w")
    ended = samkit(*ingest)
    assert ended.code == 1
    assert "The disk is full" in ended.said
    kept = package.open_workspace(small_disk.path / "w").volumes
    assert 1 <= len(kept) < 4
    assert all(volume.intact() for volume in kept.values())

    small_disk.resize(16_000)
    assert samkit(*ingest).code == 0
    assert len(package.open_workspace(small_disk.path / "w").volumes) == 4
