"""A workspace of every format that was ever released, as its samkit wrote it, is read by this one.

``archives/format-N.zip`` holds the workspace of `examples.everything` and ``numbers.json``, the digests of what it
says. One is made when a format is released, with the samkit that is released, and never again:
``python -m examples.archive FORMAT.zip`` from ``tests/``.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from examples.archive import numbers_of

from samkit.store.keys import FORMAT_VERSION
from samkit.store.verify import verify
from samkit.store.workspace import open_workspace

ARCHIVES = sorted((Path(__file__).parent / "archives").glob("format-*.zip"))


@pytest.fixture(params=ARCHIVES, ids=lambda path: path.stem)
def archived(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    with zipfile.ZipFile(request.param) as archive:
        archive.extractall(tmp_path)
    return tmp_path


def test_every_format_up_to_this_one_has_an_archive():
    assert [path.stem for path in ARCHIVES] == [f"format-{number}" for number in range(1, FORMAT_VERSION + 1)]


def test_every_number_is_read_as_it_was_written(archived: Path):
    written = json.loads((archived / "numbers.json").read_text())
    assert numbers_of(open_workspace(archived / "workspace")) == written


def test_it_is_whole(archived: Path):
    assert [checked for checked in verify(open_workspace(archived / "workspace")) if checked.fault] == []
