"""The shelf keeps a checkpoint once, by digest, and an encoder's name stands for what its users expect."""

import dataclasses
import json
import shutil
import threading

import pytest
import torch
from examples.edits import flip
from examples.tiny_sam import checkpoint, package_sam, tensors

from samkit.stages.encoders import catalogue
from samkit.stages.encoders.digests import file_digests, file_sha256
from samkit.stages.encoders.nano import NANO
from samkit.stages.encoders.shelf import WeightsShelf
from samkit.store.errors import DamagedStore, DiskFull, WeightsError


@pytest.fixture
def shelf(tmp_path):
    return WeightsShelf(tmp_path / "shelf")


def nano_file(folder, seed=1, name="mine.pth"):
    return checkpoint(folder, package_sam(NANO, seed=seed).state_dict(), name)


def small_file(folder, name, width=768):
    """A file that is taken for the checkpoint of an encoder by the width of its tokens; other bytes by its name."""
    number = torch.full((1,), float(sum(name.encode())))
    return checkpoint(folder, {"image_encoder.pos_embed": torch.zeros(1, 2, 2, width), "other.number": number}, name)


@pytest.fixture
def published(tmp_path, monkeypatch):
    """Small files that the catalogue knows as SAM's (by sha256) and as MedSAM's (by md5)."""
    files = {}
    for name, kind in (("sam_vit_b", "sha256"), ("medsam_vit_b", "md5")):
        files[name] = small_file(tmp_path, f"{name}.published")
        sha256, md5 = file_digests(files[name])
        digests = {"sha256": sha256, "md5": None} if kind == "sha256" else {"sha256": None, "md5": md5}
        entry = dataclasses.replace(catalogue.KNOWN_WEIGHTS[name], **digests)
        monkeypatch.setitem(catalogue.KNOWN_WEIGHTS, name, entry)
    return files


def test_an_empty_shelf_holds_nothing(shelf):
    assert list(shelf) == []
    assert shelf.find(encoder="nano") is None


def test_what_is_put_on_the_shelf_is_found_by_digest_and_by_encoder(tmp_path, shelf):
    file = nano_file(tmp_path)
    kept = shelf.add(file)
    assert kept.encoder == "nano"
    assert kept.sha256 == file_sha256(file) == file_sha256(kept.path)
    assert kept.size_bytes == file.stat().st_size
    assert list(shelf) == [kept]
    assert shelf.find(sha256=kept.sha256) == shelf.find(encoder="nano") == kept


def test_the_same_bytes_are_kept_once_whatever_they_are_called(tmp_path, shelf):
    first = nano_file(tmp_path)
    second = tmp_path / "of-another-name.pth"
    second.write_bytes(first.read_bytes())
    shelf.add(first)
    shelf.add(second)
    assert len(list(shelf)) == 1
    assert len(list(shelf.folder.glob("*.pth"))) == 1


def test_bytes_that_the_disk_has_changed_are_put_there_anew(tmp_path, shelf):
    file = nano_file(tmp_path)
    kept = shelf.add(file)
    flip(kept.path, place=-1000)
    assert shelf.add(file).path.read_bytes() == file.read_bytes()


def test_what_is_loaded_is_compared_with_the_name_that_it_has_on_the_shelf(tmp_path, shelf):
    kept = shelf.add(nano_file(tmp_path))
    shelf.check(kept.path, kept.sha256)
    shelf.check(None, "of a seed")
    shelf.check(tmp_path / "elsewhere.pth", "whatever")
    with pytest.raises(WeightsError, match=r"bytes have changed since they were put on the shelf.*weights add FILE"):
        shelf.check(kept.path, "0" * 64)


def test_a_digest_of_another_encoder_is_not_found(tmp_path, shelf):
    kept = shelf.add(nano_file(tmp_path))
    assert shelf.find(sha256=kept.sha256, encoder="sam_vit_b") is None
    assert shelf.find(sha256="0" * 64) is None


def test_a_file_removed_from_the_shelf_is_no_longer_listed(tmp_path, shelf):
    shelf.add(nano_file(tmp_path)).path.unlink()
    assert list(shelf) == []


def test_the_shelf_takes_the_checkpoint_without_leaving_parts(tmp_path, shelf):
    kept = shelf.add(nano_file(tmp_path))
    assert sorted(path.name for path in shelf.folder.iterdir()) == sorted([kept.path.name, f"{kept.sha256}.json"])


def test_an_encoder_of_unknown_size_is_not_shelved(tmp_path, shelf):
    with pytest.raises(WeightsError, match="does not know"):
        shelf.add(checkpoint(tmp_path, tensors()))
    assert not shelf.folder.exists()


def test_the_shelf_is_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("SAMKIT_WEIGHTS", str(tmp_path / "elsewhere"))
    assert WeightsShelf().folder == tmp_path / "elsewhere"


def test_what_is_on_the_shelf_loads(tmp_path, shelf):
    kept = shelf.add(nano_file(tmp_path))
    assert NANO.load(kept.path, size=64).recipe.weights_sha256 == kept.sha256


# What a name stands for ------------------------------------------------------------------------------------------


def test_a_published_file_is_known_whatever_it_is_called(tmp_path, shelf, published):
    for name, file in published.items():
        renamed = file.rename(tmp_path / f"renamed-{name}.pth")
        assert shelf.add(renamed).name == name
    assert {kept.name for kept in shelf} == set(published)


def test_a_trained_file_has_no_name_and_is_called_by_its_digest(tmp_path, shelf):
    kept = shelf.add(small_file(tmp_path, "mine.pth"))
    assert kept.name is None
    assert kept.told == kept.sha256[:16]


@pytest.mark.parametrize("order", [("sam_vit_b", "medsam_vit_b", "mine"), ("mine", "medsam_vit_b", "sam_vit_b")])
def test_an_encoders_name_stands_for_its_official_checkpoint_whatever_was_added_last(tmp_path, shelf, published, order):
    files = {**published, "mine": small_file(tmp_path, "mine.pth")}
    for name in order:
        shelf.add(files[name])
    assert shelf.find(encoder="sam_vit_b").sha256 == file_sha256(files["sam_vit_b"])


def test_medsams_checkpoint_is_not_taken_for_sams(shelf, published):
    shelf.add(published["medsam_vit_b"])
    assert shelf.find(encoder="sam_vit_b") is None
    assert shelf.find(name="medsam_vit_b").sha256 == file_sha256(published["medsam_vit_b"])


def test_the_only_trained_checkpoint_is_taken_where_there_is_no_official_one(tmp_path, shelf, published):
    shelf.add(published["medsam_vit_b"])
    mine = shelf.add(small_file(tmp_path, "mine.pth"))
    shelf.add(small_file(tmp_path, "large.pth", width=1024))
    assert shelf.find(encoder="sam_vit_b") == mine


def test_of_several_trained_checkpoints_none_is_taken_and_all_are_named(tmp_path, shelf):
    kept = [shelf.add(small_file(tmp_path, name)) for name in ("one.pth", "two.pth")]
    with pytest.raises(WeightsError, match="2 checkpoints of sam_vit_b") as refused:
        shelf.find(encoder="sam_vit_b")
    assert all(f"{one.sha256[:16]}" in str(refused.value) for one in kept)


def test_the_first_digits_of_a_digest_name_a_checkpoint(tmp_path, shelf):
    one, two = (shelf.add(small_file(tmp_path, name)) for name in ("one.pth", "two.pth"))
    assert shelf.named(one.told) == one
    assert shelf.named(two.sha256[:6].upper()) == two
    assert shelf.named(one.sha256[:5]) is None
    assert shelf.named("0" * 16) is None


def test_digits_that_fit_several_are_refused_with_all_of_them(shelf):
    shelf.folder.mkdir()
    digests = ["abcdef" + "0" * 58, "abcdef" + "1" * 58]
    for digest in digests:
        (shelf.folder / f"{digest}.pth").touch()
        (shelf.folder / f"{digest}.json").write_text(json.dumps({"encoder": "nano", "file": f"{digest}.pth"}))
    with pytest.raises(WeightsError, match=f"fits {digests[0]}, {digests[1]}. Give more digits"):
        shelf.named("abcdef")


def test_a_name_of_the_catalogue_finds_what_was_added_as_a_file(shelf, published):
    shelf.add(published["medsam_vit_b"])
    assert shelf.named("medsam_vit_b").name == "medsam_vit_b"
    assert shelf.named("sam_vit_b") is None


def test_a_shelf_of_an_earlier_samkit_is_read(shelf, published):
    # Its notes have no name; by sha256 the catalogue still knows what it is.
    kept = shelf.add(published["sam_vit_b"])
    note = shelf.folder / f"{kept.sha256}.json"
    note.write_text(json.dumps({"encoder": "sam_vit_b", "file": kept.path.name}))
    assert list(shelf) == [kept]


# Bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["[]", "{}", '{"encoder": "nano"}', "torn {"])
def test_a_note_that_is_none_is_named(shelf, content):
    shelf.folder.mkdir()
    (shelf.folder / "abc.json").write_text(content)
    with pytest.raises(DamagedStore, match=r"abc\.json"):
        list(shelf)


def test_what_the_disk_has_no_room_for_is_not_copied(tmp_path, shelf, monkeypatch):
    file = small_file(tmp_path, "mine.pth")
    usage = type(shutil.disk_usage("/"))(total=10**9, used=0, free=100)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(DiskFull, match=r"mine\.pth takes"):
        shelf.add(file)
    assert list(shelf) == []


def test_a_file_that_changes_while_it_is_copied_is_not_kept(tmp_path, shelf, monkeypatch):
    file = small_file(tmp_path, "mine.pth")
    monkeypatch.setattr("samkit.stages.encoders.shelf.copy_file", lambda source, target: target.write_bytes(b"other"))
    with pytest.raises(WeightsError, match=r"mine\.pth: changed while it was copied"):
        shelf.add(file)
    assert list(shelf.folder.iterdir()) == []


def test_two_that_add_the_same_at_once_keep_one_whole_file(tmp_path, shelf):
    file = nano_file(tmp_path)
    threads = [threading.Thread(target=shelf.add, args=(file,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (kept,) = shelf
    assert file_sha256(kept.path) == kept.sha256
    assert len(list(shelf.folder.iterdir())) == 2


def test_what_is_removed_leaves_nothing(tmp_path, shelf):
    shelf.remove(shelf.add(small_file(tmp_path, "mine.pth")))
    assert list(shelf.folder.iterdir()) == []
