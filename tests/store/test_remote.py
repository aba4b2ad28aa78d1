"""An object store behind fsspec: the same face as a directory, and every refusal says what to do."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import zarr
from contracts.place import PlaceContract

from samkit.store import remote
from samkit.store.arrays import array_files, open_array
from samkit.store.errors import StoreError, UsageError
from samkit.store.local import LocalPlace
from samkit.store.places import Place, place_of
from samkit.store.remote import RemotePlace
from samkit.store.workspace import Workspace


@pytest.fixture
def place() -> Iterator[Place]:
    """A prefix of fsspec's store in memory, which is one for the whole process."""
    made = place_of(f"memory://bucket-{uuid.uuid4().hex}/folder")
    yield made
    made.remove()


class TestRemotePlace(PlaceContract):
    pass


# -- URLs ------------------------------------------------------------------------------------------


def test_a_url_is_a_place_of_its_protocol_and_path():
    assert place_of("memory://bucket/folder/") == RemotePlace("memory", "bucket/folder")
    assert str(place_of("memory://bucket/folder/")) == "memory://bucket/folder"


def test_a_path_that_has_lost_a_slash_of_its_url_is_that_url():
    # Path("s3://bucket/x") is "s3:/bucket/x", and must not become a folder named "s3:".
    assert place_of(Path("memory://bucket/folder")) == place_of("memory://bucket/folder")


def test_the_protocol_may_be_written_in_capitals():
    assert place_of("MEMORY://bucket/folder") == place_of("memory://bucket/folder")


def test_a_place_is_a_place_of_itself(place: Place):
    assert place_of(place) is place


@pytest.mark.parametrize("url", ["memory://", "memory:///"])
def test_a_url_without_a_bucket_is_refused(url: str):
    with pytest.raises(UsageError, match=r"name a bucket and a folder in it, memory://BUCKET/WORKSPACE"):
        place_of(url)


def test_a_protocol_that_nobody_knows_is_refused():
    with pytest.raises(UsageError, match=r"nosuch://bucket/folder: .* samkit uses s3://.* or a directory"):
        place_of("nosuch://bucket/folder")


def test_a_library_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch):
    def missing(*_: object, **__: object) -> None:
        message = "Install s3fs to access S3"
        raise ImportError(message)

    remote._file_system.cache_clear()
    monkeypatch.setattr(remote.fsspec, "filesystem", missing)
    with pytest.raises(UsageError, match=r"s3://: Install s3fs to access S3 \(samkit\[s3\] brings it"):
        place_of("s3://bucket/folder")
    monkeypatch.undo()
    remote._file_system.cache_clear()


# -- what an object store answers ------------------------------------------------------------------


def test_a_refusal_of_the_store_is_told_with_the_place_and_what_to_check(place: Place, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object, **__: object) -> None:
        message = "Access Denied"
        raise PermissionError(message)

    assert isinstance(place, RemotePlace)
    monkeypatch.setattr(place._fs, "pipe_file", refuse)
    with pytest.raises(StoreError, match=r"folder/file: the object store answered: Access Denied\. Check the URL"):
        (place / "file").publish(b"data")


def test_an_error_of_a_library_that_is_no_oserror_is_told_too(place: Place, monkeypatch: pytest.MonkeyPatch):
    class HttpError(Exception):
        """As gcsfs has it."""

    def refuse(*_: object, **__: object) -> None:
        message = "Anonymous caller does not have storage.objects.get access"
        raise HttpError(message)

    monkeypatch.setitem(sys.modules, "gcsfs.retry", SimpleNamespace(HttpError=HttpError))
    assert isinstance(place, RemotePlace)
    monkeypatch.setattr(place._fs, "pipe_file", refuse)
    with pytest.raises(StoreError, match="the object store answered: Anonymous caller"):
        (place / "file").publish(b"data")


def test_an_error_that_fsspec_returns_for_a_part_is_raised(place: Place, monkeypatch: pytest.MonkeyPatch):
    """Before 2026.6 it did so whatever was asked: a shard that is gone has to be seen to be gone."""
    assert isinstance(place, RemotePlace)
    monkeypatch.setattr(place._fs, "cat_ranges", lambda *_, **__: [FileNotFoundError("gone")])
    (place / "file").publish(bytes(8))
    with pytest.raises(FileNotFoundError):
        (place / "file").read_into([(0, memoryview(bytearray(4)))], size_bytes=8)


def test_the_last_file_of_a_folder_is_put_after_all_others(place: Place, monkeypatch: pytest.MonkeyPatch):
    # It tells that the folder is there: a kill before it leaves nothing that counts.
    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    assert isinstance(place, RemotePlace)
    put = place._fs.pipe_file

    def dies_at_the_last(path: str, *arguments: object, **others: object) -> object:
        return die() if path.endswith("run.json") else put(path, *arguments, **others)

    monkeypatch.setattr(place._fs, "pipe_file", dies_at_the_last)
    with pytest.raises(KeyboardInterrupt):
        place.publish_folder({"a": b"1", "b/c": b"2", "run.json": b"3"})
    assert place.files() == {"a": 1, "b/c": 1}


# -- what zarr reads -------------------------------------------------------------------------------


def test_zarr_reads_an_array_from_there(place: Place):
    values = np.random.default_rng(0).random((3, 1, 4, 4)).astype(np.float16)
    (place / "image").publish_folder(dict(array_files(values)))
    np.testing.assert_array_equal(np.asarray(open_array(place / "image")[:]), values)
    np.testing.assert_array_equal(zarr.open_array(f"{place}/image", mode="r")[:], values)


# -- what other servers answer ---------------------------------------------------------------------


class Refusal(Exception):
    """What botocore raises: the server's answer is in it."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.response = {"Error": {"Code": code}}


def answering(code: str, times: int) -> Callable[..., None]:
    """A PUT that a server refuses with a code, as s3fs passes it on, some times; then it is done."""
    answers = [code] * times

    def put(*_: object, **__: object) -> None:
        if answers:
            raise OSError(22, "refused") from Refusal(answers.pop())

    return put


@pytest.fixture
def put(monkeypatch: pytest.MonkeyPatch, place: RemotePlace) -> Callable[[Callable[..., None]], None]:
    def replace(by: Callable[..., None]) -> None:
        monkeypatch.setattr(type(place._fs), "pipe_file", lambda self, *a, **k: by(*a, **k))
        monkeypatch.setattr("samkit.store.remote._SECONDS_BETWEEN_TRIES", 0)

    return replace


@pytest.mark.parametrize("code", ["PreconditionFailed", "412"])
def test_a_refused_condition_is_told_as_there_already_whatever_else_the_server_says(place, put, code: str):
    put(answering(code, 1))
    assert (place / "new.json").publish_if_absent(b"x") is False


def test_two_conditional_puts_of_one_moment_are_tried_again(place, put):
    put(answering("ConditionalRequestConflict", 3))
    assert (place / "new.json").publish_if_absent(b"x") is True


def test_a_conflict_that_does_not_end_is_told(place, put):
    put(answering("ConditionalRequestConflict", 100))
    with pytest.raises(StoreError, match="the object store answered"):
        (place / "new.json").publish_if_absent(b"x")


def test_any_other_refusal_is_told_at_once(place, put):
    put(answering("AccessDenied", 1))
    with pytest.raises(StoreError, match="the object store answered"):
        (place / "new.json").publish_if_absent(b"x")


def test_a_bucket_that_is_not_there_is_told(place, put):
    def missing(*_: object, **__: object) -> None:
        raise FileNotFoundError("The specified bucket does not exist")

    put(missing)
    with pytest.raises(StoreError, match="the bucket does not exist"):
        (place / "new.json").publish(b"x")


def test_a_store_that_writes_over_what_is_there_is_refused_as_a_workspace(place, put):
    put(lambda *_, **__: None)
    with pytest.raises(StoreError, match="writes over what is there"):
        Workspace.create(place / "workspace")


def test_a_file_url_is_a_directory(tmp_path: Path):
    assert place_of(f"file://{tmp_path}/w") == LocalPlace(tmp_path / "w")


@pytest.mark.parametrize("url", ["sftp://host/folder", "http://host/folder", "zip://x/y"])
def test_stores_that_can_be_torn_are_refused(url: str):
    with pytest.raises(UsageError, match="writes an object whole and only if it is absent"):
        place_of(url)
