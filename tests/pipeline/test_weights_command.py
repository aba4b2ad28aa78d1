"""`samkit weights get`, `add` and `list`, and which checkpoint a command takes, as a user meets them."""

from __future__ import annotations

import dataclasses
import json
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from examples.file_server import CONTENT, FileServer, file_server, known_file
from examples.tiny_sam import checkpoint, package_sam

from samkit.pipeline.commands.weights import shelved_weights, weights_file_of, weights_of
from samkit.stages.encoders import catalogue
from samkit.stages.encoders.digests import file_digests
from samkit.stages.encoders.nano import NANO
from samkit.stages.encoders.shelf import WeightsShelf
from samkit.store.errors import WeightsError
from samkit.store.keys import Recipe

Samkit = Callable[..., Any]


@pytest.fixture(autouse=True)
def no_settings_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.delenv("SAMKIT_WEIGHTS_MIRROR", raising=False)
    monkeypatch.delenv("SAMKIT_OFFLINE", raising=False)


@pytest.fixture(autouse=True)
def no_traceback(capsys: pytest.CaptureFixture[str]) -> Iterator[None]:
    yield
    captured = capsys.readouterr()
    assert "Traceback" not in captured.out + captured.err


@pytest.fixture
def server() -> Iterator[FileServer]:
    with file_server({"/tried.pth": CONTENT}) as served:
        yield served


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> catalogue.KnownWeights:
    """An entry of the catalogue whose file the server has, at an official address that nobody answers."""
    known = known_file()
    monkeypatch.setitem(catalogue.KNOWN_WEIGHTS, "tried", known)
    return known


def of_width(folder: Path, name: str, width: int = 768, **beside: object) -> Path:
    """A file that is taken for a checkpoint by the width of its tokens; other bytes by its name."""
    number = torch.full((1,), float(sum(name.encode())))
    content = {"image_encoder.pos_embed": torch.zeros(1, 2, 2, width), "image_encoder.number": number, **beside}
    return checkpoint(folder, content, name)


def nano_file(folder: Path, seed: int = 1) -> Path:
    return checkpoint(folder, package_sam(NANO, seed=seed).state_dict(), f"nano{seed}.pth")


@pytest.fixture
def publish(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Path], None]:
    """Let the catalogue know a small file as one of its checkpoints, by the kind of digest that it pins."""

    def pin(name: str, file: Path) -> None:
        sha256, md5 = file_digests(file)
        known = catalogue.KNOWN_WEIGHTS[name]
        pinned = {"sha256": sha256} if known.digest_kind == "sha256" else {"md5": md5}
        monkeypatch.setitem(catalogue.KNOWN_WEIGHTS, name, dataclasses.replace(known, **pinned))

    return pin


# -- get -------------------------------------------------------------------------------------------


def test_get_brings_published_weights_and_says_what_comes_next(samkit: Samkit, server: FileServer, tried: Any):
    ended = samkit("weights", "get", "tried", "--mirror", server.url)
    assert ended.code == 0
    kept = WeightsShelf().find(name="tried")
    assert kept is not None
    assert kept.path.read_bytes() == CONTENT
    assert (
        f"tried: {kept.path} (2.6 MB, sha256 {tried.sha256[:16]}.. as it should be; licence Apache-2.0)" in ended.said
    )
    assert "next: samkit embed --encoder nano --weights tried" in ended.said


def test_get_of_what_is_there_says_so_and_asks_nobody(samkit: Samkit, server: FileServer, tried: Any):
    samkit("weights", "get", "tried", "--mirror", server.url)
    server.requests.clear()
    ended = samkit("weights", "get", "tried", "--mirror", server.url)
    assert ended.code == 0
    assert "tried is on the shelf already" in ended.said
    assert server.requests == []


def test_the_mirror_may_stand_in_the_environment(samkit: Samkit, server: FileServer, tried: Any, monkeypatch):
    monkeypatch.setenv("SAMKIT_WEIGHTS_MIRROR", server.url)
    assert samkit("weights", "get", "tried").code == 0


def test_a_folder_serves_a_closed_network(samkit: Samkit, tried: Any, tmp_path: Path, monkeypatch):
    (tmp_path / "tried.pth").write_bytes(CONTENT)
    monkeypatch.setenv("SAMKIT_WEIGHTS_MIRROR", str(tmp_path))
    monkeypatch.setenv("SAMKIT_OFFLINE", "1")
    assert samkit("weights", "get", "tried").code == 0


@pytest.mark.parametrize("by", ["flag", "environment"])
def test_offline_it_says_which_file_to_put_where(samkit: Samkit, by: str, monkeypatch):
    if by == "environment":
        monkeypatch.setenv("SAMKIT_OFFLINE", "1")
    ended = samkit("weights", "get", "sam_vit_b", *(["--offline"] if by == "flag" else []))
    assert ended.code == 1
    assert "https://dl.fbaipublicfiles.com/segment_anything/sam_vit_b_01ec64.pth" in ended.said
    assert "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912" in ended.said
    assert "samkit weights add sam_vit_b_01ec64.pth" in ended.said
    assert "samkit weights get sam_vit_b --mirror FOLDER" in ended.said


def test_without_a_network_it_says_so_and_how_to_do_without(samkit: Samkit, monkeypatch):
    def unreachable(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "create_connection", unreachable)
    ended = samkit("weights", "get", "medsam_vit_b")
    assert ended.code == 1
    assert "zenodo.org cannot be found (Temporary failure in name resolution)" in ended.said
    assert "HTTPS_PROXY" in ended.said
    assert "Without a network here: fetch https://zenodo.org" in ended.said


def test_a_wrong_digest_is_refused_with_both(samkit: Samkit, server: FileServer, tried: Any):
    server.files["/tried.pth"] = b"<html>log in</html>"
    ended = samkit("weights", "get", "tried", "--mirror", server.url)
    assert ended.code == 1
    assert f"tried has {tried.sha256}: it is a web page" in ended.said
    assert list(WeightsShelf()) == []


def test_a_mirror_without_the_file_is_refused(samkit: Samkit, server: FileServer, tried: Any):
    server.files.clear()
    ended = samkit("weights", "get", "tried", "--mirror", server.url)
    assert ended.code == 1
    assert f"{server.url}/tried.pth: the server answered 404 (Not Found)" in ended.said


def test_an_unknown_name_is_wrong_usage_with_the_nearest(samkit: Samkit):
    ended = samkit("weights", "get", "sam-vit-b")
    assert ended.code == 2
    assert "Did you mean 'sam_vit_b'?" in ended.said


def test_a_mirror_of_another_kind_is_wrong_usage(samkit: Samkit):
    ended = samkit("weights", "get", "sam_vit_b", "--mirror", "s3://bucket")
    assert ended.code == 2
    assert "give a folder, or an address as http://HOST/FOLDER" in ended.said


def test_a_disk_without_room_is_refused(samkit: Samkit, server: FileServer, tried: Any, monkeypatch):
    usage = type(shutil.disk_usage("/"))(total=10**9, used=0, free=1000)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    ended = samkit("weights", "get", "tried", "--mirror", server.url)
    assert ended.code == 1
    assert "tried.pth takes 2.6 MB more and 0.0 MB are free" in ended.said


def test_medsams_weights_are_told_apart_and_come_with_the_rule_for_their_pixels(samkit, tmp_path, publish):
    file = of_width(tmp_path, "medsam_vit_b.pth")
    publish("medsam_vit_b", file)
    ended = samkit("weights", "get", "medsam_vit_b", "--mirror", tmp_path)
    assert ended.code == 0
    assert "no sha256 of it is established" in ended.said
    assert "next: samkit embed --encoder sam_vit_b --weights medsam_vit_b --pixels medsam" in ended.said


# -- list and add ----------------------------------------------------------------------------------


def test_list_shows_what_is_there_and_what_can_be_got(samkit: Samkit, tmp_path: Path, publish):
    file = of_width(tmp_path, "sam.pth")
    publish("sam_vit_b", file)
    samkit("weights", "add", file)
    mine = of_width(tmp_path, "mine.pth")
    samkit("weights", "add", mine)
    ended = samkit("weights", "list")
    assert ended.code == 0
    rows = {line.split()[0]: line.split() for line in ended.out.splitlines() if line.strip()}
    assert rows["sam_vit_b"][1:3] == ["sam_vit_b", "yes"]
    assert rows[file_digests(mine)[0][:16]][1:3] == ["sam_vit_b", "yes"]
    assert rows["sam_vit_h"][1:3] == ["sam_vit_h", "no"]
    assert rows["medsam_vit_b"][1:5] == ["sam_vit_b", "no", "md5", "3bb6db55bd0c9ca3.."]
    assert "get one: samkit weights get sam_vit_l" in ended.said


def test_list_shows_what_has_begun(samkit: Samkit):
    begun = WeightsShelf().part_of(catalogue.KNOWN_WEIGHTS["sam_vit_h"]) / "bytes"
    begun.parent.mkdir(parents=True)
    begun.write_bytes(bytes(1_500_000))
    assert "1.5 MB of it" in samkit("weights", "list").said


def test_list_can_be_read_by_a_script(samkit: Samkit, tmp_path: Path):
    samkit("weights", "add", of_width(tmp_path, "mine.pth"))
    listed = json.loads(samkit("weights", "list", "--json").out)
    assert listed["shelf"] == str(WeightsShelf().folder)
    mine, *published = listed["weights"]
    assert mine["there"]
    assert mine["name"] is None
    assert Path(mine["path"]).stat().st_size == mine["size_bytes"]
    assert [known["name"] for known in published] == list(catalogue.KNOWN_WEIGHTS)
    assert not any(known["there"] for known in published)


def test_add_says_what_it_leaves_aside(samkit: Samkit, tmp_path: Path):
    ended = samkit("weights", "add", of_width(tmp_path, "mine.pth", decoder_state={"w": torch.zeros(1)}))
    assert ended.code == 0
    assert "SAM's part is taken; left aside: decoder_state (1 tensor)" in ended.said


def test_add_says_that_a_file_with_an_official_name_is_another(samkit: Samkit, tmp_path: Path):
    ended = samkit("weights", "add", of_width(tmp_path, "sam_vit_b_01ec64.pth"))
    assert ended.code == 0
    assert "is called as sam_vit_b is, and its bytes are others" in ended.said


def test_add_of_a_published_file_says_its_name(samkit: Samkit, tmp_path: Path, publish):
    file = of_width(tmp_path, "renamed.pth")
    publish("medsam_vit_b", file)
    assert "medsam_vit_b (sam_vit_b): " in samkit("weights", "add", file).said


# -- which checkpoint a command takes --------------------------------------------------------------


def test_sam_without_its_checkpoint_is_told_to_get_it(samkit: Samkit, finished: Any):
    ended = samkit("embed", "--encoder", "sam_vit_l", *finished.flag)
    assert ended.code == 1
    assert "Get it: samkit weights get sam_vit_l (about 1.2 GB)" in ended.said


def test_where_only_medsams_is_there_sams_is_asked_for_and_the_choice_is_named(samkit, finished, tmp_path, publish):
    file = of_width(tmp_path, "medsam.pth")
    publish("medsam_vit_b", file)
    samkit("weights", "add", file)
    ended = samkit("embed", "--encoder", "sam_vit_b", *finished.flag)
    assert ended.code == 1
    assert "samkit weights get sam_vit_b" in ended.said
    assert "Or take another: --weights medsam_vit_b" in ended.said


def test_the_official_checkpoint_is_taken_and_the_others_are_named(tmp_path, publish, samkit, capsys):
    file, mine = of_width(tmp_path, "sam.pth"), of_width(tmp_path, "mine.pth")
    publish("sam_vit_b", file)
    samkit("weights", "add", file)
    samkit("weights", "add", mine)
    capsys.readouterr()
    taken = weights_file_of("sam_vit_b", None)
    assert file_digests(taken) == file_digests(file)
    others = file_digests(mine)[0][:16]
    assert f"weights sam_vit_b from the shelf (others: --weights {others})" in capsys.readouterr().out


def test_the_official_checkpoint_alone_needs_no_word(tmp_path, publish, samkit, capsys):
    file = of_width(tmp_path, "sam.pth")
    publish("sam_vit_b", file)
    samkit("weights", "add", file)
    capsys.readouterr()
    assert weights_file_of("sam_vit_b", None) is not None
    assert capsys.readouterr().out == ""


@pytest.fixture
def without_own_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make nano an encoder that comes without weights, as SAM's are: small enough for a test."""
    monkeypatch.setattr("samkit.stages.encoders.nano.NANO", dataclasses.replace(NANO, own_weights=None))


def test_what_comes_with_samkit_is_meant_before_what_is_on_the_shelf(samkit: Samkit, tmp_path: Path):
    samkit("weights", "add", nano_file(tmp_path))
    assert weights_file_of("nano", None) == NANO.own_weights


@pytest.mark.usefixtures("without_own_weights")
def test_a_checkpoint_of_ones_own_embeds_and_is_named(samkit: Samkit, ingested: Any, tmp_path: Path):
    file = nano_file(tmp_path)
    samkit("weights", "add", file)
    digest = file_digests(file)[0]
    ended = samkit("embed", "--size", "64", *ingested.flag)
    assert ended.code == 0, ended.said
    assert f"weights {digest[:16]} from the shelf, the one of your own" in ended.said
    assert f"weights {digest[:8]}" in ended.said


@pytest.mark.usefixtures("without_own_weights")
def test_of_several_of_ones_own_one_has_to_be_named_and_a_digest_names_it(samkit, ingested, tmp_path):
    digests = []
    for seed in (1, 2):
        file = nano_file(tmp_path, seed)
        samkit("weights", "add", file)
        digests.append(file_digests(file)[0])
    ended = samkit("embed", "--size", "64", *ingested.flag)
    assert ended.code == 1
    assert "2 checkpoints of nano are on the shelf" in ended.said
    ended = samkit("embed", "--size", "64", "--weights", digests[0][:16], *ingested.flag)
    assert ended.code == 0, ended.said
    assert f"weights {digests[0][:8]}" in ended.said


def test_a_name_of_the_catalogue_that_is_not_there_is_told_to_get(samkit: Samkit, finished: Any):
    ended = samkit("embed", "--encoder", "sam_vit_b", "--weights", "medsam_vit_b", *finished.flag)
    assert ended.code == 1
    assert "medsam_vit_b is not on the shelf. Get it: samkit weights get medsam_vit_b (about 375.0 MB)" in ended.said


def test_a_name_of_another_encoders_weights_says_which_encoder_to_type(samkit: Samkit, finished: Any):
    ended = samkit("embed", "--weights", "medsam_vit_b", *finished.flag)
    assert ended.code == 1
    assert "weights of sam_vit_b, and the encoder is nano. Type --encoder sam_vit_b" in ended.said


def test_a_file_is_taken_before_a_name(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    of_width(tmp_path, "medsam_vit_b")
    assert weights_file_of("sam_vit_b", "medsam_vit_b") == Path("medsam_vit_b")


def test_a_file_named_for_one_command_says_what_is_left_aside(samkit: Samkit, ingested: Any, tmp_path: Path):
    content = {"model_state": package_sam(NANO).state_dict(), "decoder_state": {"w": torch.zeros(1)}}
    file = checkpoint(tmp_path, content, "tuned.pth")
    ended = samkit("embed", "--size", "64", "--weights", file, *ingested.flag)
    assert ended.code == 0, ended.said
    assert ended.said.count("left aside: decoder_state (1 tensor)") == 1


def recipe_of(encoder: str, sha256: str) -> Recipe:
    return Recipe(
        encoder=encoder,
        weights_sha256=sha256,
        input_px=1024,
        pixel_normalisation="sam",
        compute_precision="float32",
        storage_precision="float16",
    )


def test_a_recipe_of_official_weights_that_are_gone_is_told_to_get_them():
    known = catalogue.KNOWN_WEIGHTS["sam_vit_h"]
    with pytest.raises(WeightsError, match=r"Get them: samkit weights get sam_vit_h \(about 2\.6 GB\)\. Give the file"):
        shelved_weights(recipe_of("sam_vit_h", known.sha256 or ""))


def test_a_recipe_of_weights_that_may_be_medsams_says_so():
    with pytest.raises(WeightsError, match="If they are those of medsam_vit_b: samkit weights get medsam_vit_b"):
        shelved_weights(recipe_of("sam_vit_b", "0" * 64))


def test_a_recipe_takes_its_weights_by_name_too(tmp_path: Path, publish, samkit: Samkit):
    file = of_width(tmp_path, "medsam.pth")
    publish("medsam_vit_b", file)
    samkit("weights", "add", file)
    recipe = recipe_of("sam_vit_b", file_digests(file)[0])
    assert weights_of(recipe, "medsam_vit_b", trained=True) == weights_of(recipe, None, trained=True)
