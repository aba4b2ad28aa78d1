"""Checkpoints are read in every wrapping people have, never executed, and kept on a shelf once."""

import os
import pickle

import pytest
import torch
from examples.tiny_sam import TINY, checkpoint, package_sam, tensors
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from samkit.stages.encoders.nano import NANO
from samkit.stages.encoders.weights import WeightsShelf, file_sha256, read_checkpoint, recognise, tensors_sha256
from samkit.store.errors import WeightsError


def prefixed(prefix):
    return {prefix + name: value for name, value in tensors().items()}


WRAPPINGS = {
    "plain": tensors,
    "model": lambda: {"model": tensors(), "epoch": 3},
    "state_dict": lambda: {"state_dict": tensors(), "optimizer": {"lr": 0.1}},
    "nested": lambda: {"model": {"state_dict": tensors()}},
    "module.": lambda: prefixed("module."),
    "sam.": lambda: prefixed("sam."),
    "module.sam.": lambda: prefixed("module.sam."),
    "wrapped and prefixed": lambda: {"model": prefixed("module.")},
}


@pytest.mark.parametrize("content", WRAPPINGS.values(), ids=WRAPPINGS)
def test_every_usual_wrapping_is_taken_off(tmp_path, content):
    read = read_checkpoint(checkpoint(tmp_path, content()))
    expected = tensors()
    assert expected.keys() - read.keys() == {"pixel_mean", "pixel_std"} & expected.keys()
    assert all(torch.equal(read[name], expected[name]) for name in read)


def test_safetensors_are_read(tmp_path):
    save_file({name: value.contiguous() for name, value in tensors().items()}, tmp_path / "weights.safetensors")
    encoder = TINY.load(tmp_path / "weights.safetensors")
    plain = TINY.load(checkpoint(tmp_path, tensors()))
    image = torch.rand(1, 1, 20, 20)
    assert torch.equal(encoder(image), plain(image))


def test_the_older_file_format_of_pytorch_is_read(tmp_path):
    torch.save(tensors(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert "image_encoder.pos_embed" in read_checkpoint(tmp_path / "old.pth")


def test_tensors_of_other_networks_in_the_file_are_left_out(tmp_path):
    read = read_checkpoint(checkpoint(tmp_path, {**tensors(), "box_head.weight": torch.zeros(2)}))
    assert "box_head.weight" not in read


# Refusals --------------------------------------------------------------------------------------------------------


class RunsCode:
    """Pickled, it makes a folder when it is loaded."""

    def __init__(self, evidence):
        self.evidence = evidence

    def __reduce__(self):
        return os.mkdir, (self.evidence,)


def test_a_pickle_with_code_is_refused_and_not_executed(tmp_path):
    evidence = tmp_path / "executed"
    path = checkpoint(tmp_path, {**tensors(), "extra": RunsCode(str(evidence))})
    with pytest.raises(WeightsError, match="nothing in it was executed"):
        read_checkpoint(path)
    assert not evidence.exists()
    torch.load(path, weights_only=False)  # the trap is real
    assert evidence.exists()


def test_a_bare_pickle_with_code_is_refused_and_not_executed(tmp_path):
    evidence = tmp_path / "executed"
    # Protocol 2, the one that torch itself writes.
    (tmp_path / "weights.pth").write_bytes(pickle.dumps(RunsCode(str(evidence)), protocol=2))
    with pytest.raises(WeightsError):
        read_checkpoint(tmp_path / "weights.pth")
    assert not evidence.exists()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_that_was_cut_short_is_refused(tmp_path, share, suffix):
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(tensors(), path)
    else:
        save_file(tensors(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(WeightsError, match="weights"):
        read_checkpoint(path)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="no such weights file"):
        read_checkpoint(tmp_path / "nowhere.pth")


@pytest.mark.parametrize("content", [{"conv.weight": torch.zeros(1)}, {}, [1, 2], torch.zeros(3), {"model": {}}])
def test_another_network_is_refused_with_what_is_in_it(tmp_path, content):
    with pytest.raises(WeightsError, match="not a SAM checkpoint"):
        read_checkpoint(checkpoint(tmp_path, content))


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n", b"<html>404</html>"])
def test_a_file_that_is_no_checkpoint_at_all_is_refused(tmp_path, content):
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(WeightsError):
        read_checkpoint(tmp_path / "weights.pth")


# Digests ---------------------------------------------------------------------------------------------------------


def test_the_digest_of_tensors_does_not_depend_on_their_order():
    given = tensors()
    assert tensors_sha256(given) == tensors_sha256(dict(reversed(given.items())))


@pytest.mark.parametrize(
    "changed",
    [
        {"a": torch.tensor([1.0, 3.0])},
        {"b": torch.tensor([1.0, 2.0])},
        {"a": torch.tensor([[1.0, 2.0]])},
        {"a": torch.tensor([1.0, 2.0], dtype=torch.float64)},
    ],
    ids=["values", "name", "shape", "kind"],
)
def test_the_digest_of_tensors_depends_on_all_there_is(changed):
    assert tensors_sha256({"a": torch.tensor([1.0, 2.0])}) != tensors_sha256(changed)


# Recognition and the shelf ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "encoder"), [(768, "sam_vit_b"), (1024, "sam_vit_l"), (1280, "sam_vit_h"), (192, "nano"), (7, None)]
)
def test_a_checkpoint_is_recognised_by_the_width_of_its_tokens(width, encoder):
    assert recognise({"image_encoder.pos_embed": torch.zeros(1, 4, 4, width)}) == encoder


def test_a_checkpoint_without_positions_is_not_recognised():
    assert recognise({"image_encoder.neck.0.weight": torch.zeros(1)}) is None


@pytest.fixture
def shelf(tmp_path):
    return WeightsShelf(tmp_path / "shelf")


def nano_file(folder, seed=1, name="mine.pth"):
    return checkpoint(folder, package_sam(NANO, seed=seed).state_dict(), name)


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


def test_of_several_the_one_added_last_is_found(tmp_path, shelf):
    first, second = nano_file(tmp_path, 1, "a.pth"), nano_file(tmp_path, 2, "b.pth")
    for number, file in enumerate([first, second, first]):
        kept = shelf.add(file)
        os.utime(shelf.folder / f"{kept.sha256}.json", ns=(number * 10**9, number * 10**9))
    assert shelf.find(encoder="nano").sha256 == file_sha256(first)


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


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=400) | st.text(max_size=200).map(str.encode))
def test_whatever_bytes_a_file_holds_it_is_refused_in_words(tmp_path, content):
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(WeightsError):
        read_checkpoint(tmp_path / "weights.pth")
