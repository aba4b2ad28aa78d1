"""Planes larger than the encoder's input, by the command line: cut, embedded, trained on, and stitched again."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from examples.tiles import disks, embed_tiles, workspace_of_disks
from PIL import Image

import samkit as package
from samkit.heads.tiling import Tiling, row_keys
from samkit.stages.encoders.nano import NANO
from samkit.store.workspace import open_workspace

# Three that are cut by an input of 64 pixels, one along one side only, and one that fits.
SIZES = ((150, 120), (130, 170), (60, 140), (50, 64))
TILES = ("embed", "--size", "64", "--precision", "float32", "--tiles")
TRAIN = ("train-head", "linear", "--volumes", "1", "--steps", "5", "--tiles")


def write_film(folder: Path, name: str, seed: int, rows: int, columns: int, *, label: bool = True) -> Path:
    """Write a film and its label as pictures, ``images/<name>.png`` and ``labels/<name>.png``."""
    image, values = disks(seed, rows, columns)
    pictures = {"images": (image[0, 0].astype(np.float32) * 255).astype(np.uint8)}
    if label:
        pictures["labels"] = values[0]
    for kind, pixels in pictures.items():
        (folder / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / kind / f"{name}.png")
    return folder / "images" / f"{name}.png"


@pytest.fixture(scope="module")
def films(tmp_path_factory, user):
    """Films of several sizes, embedded in tiles, and a run on them: (pictures, workspace). Not to be changed."""
    from samkit.pipeline.cli import run

    folder = tmp_path_factory.mktemp("films")
    for number, size in enumerate(SIZES):
        write_film(folder / "data", f"film{number}", number, *size)
    for command in (("ingest", str(folder / "data"), "--ids", "stem"), TILES, TRAIN):
        assert run([*command, "--workspace", str(folder / "workspace")]) == 0
    return folder / "data", folder / "workspace"


@pytest.fixture
def films_to_change(films, tmp_path):
    shutil.copytree(films[1], tmp_path / "workspace")
    return films[0], tmp_path / "workspace"


@pytest.fixture
def ingested_films(samkit, tmp_path) -> Path:
    """A workspace of two films that are cut, nothing embedded."""
    for number in range(2):
        write_film(tmp_path / "two", f"film{number}", number, *SIZES[number])
    assert samkit("ingest", tmp_path / "two", "--ids", "stem", "-w", tmp_path / "w").code == 0
    return tmp_path / "w"


# -- what is told ----------------------------------------------------------------------------------


def test_a_plane_that_lacks_a_tile_is_missing_and_goes_on_in_tiles(samkit, ingested_films, monkeypatch):
    monkeypatch.setattr("samkit.store.embeddings.ROWS_PER_SHARD", 2)
    assert samkit(*TILES, "--workspace", ingested_films).code == 0
    assert "without a row" not in samkit("status", "--workspace", ingested_films).said
    embeddings = open_workspace(ingested_films).embeddings("nano")
    embeddings.retire(list(embeddings.journal.records)[:1])
    said = samkit("status", "--workspace", ingested_films).said
    assert "without a row" in said
    assert f"samkit embed --recipe {embeddings.recipe.id} --tiles" in said


def test_the_training_that_is_suggested_takes_the_tiles(samkit, ingested_films):
    said = samkit(*TILES, "--workspace", ingested_films).said
    assert "next: samkit train-head linear --volumes 1 --draws 3 --tiles" in said


def test_rows_of_tiles_are_encoded_again(samkit, films):
    assert samkit("verify", "--recompute", "2", "--workspace", films[1]).code == 0


# -- embed -----------------------------------------------------------------------------------------


def test_the_row_of_a_tile_is_the_encoders_answer_to_its_pixels(films, tmp_path):
    opened = open_workspace(films[1])
    embeddings = opened.embeddings("nano")
    expected = workspace_of_disks(tmp_path / "other")
    for volume in opened.volumes.values():
        expected.commit_volumes([volume.record])
    shutil.copytree(films[1] / "slices", tmp_path / "other" / "slices")
    tiling = Tiling(input_px=64)
    theirs = embed_tiles(expected, NANO.load(NANO.own_weights, size=64), tiling)
    for volume in opened.volumes.values():
        keys = row_keys(volume, tiling)
        mine, by_hand = (rows.read(keys).astype(np.float32) for rows in (embeddings, theirs))
        assert np.linalg.norm(mine - by_hand) < 1e-3 * np.linalg.norm(by_hand)


def test_embedding_tiles_twice_computes_nothing(samkit, films):
    ended = samkit(*TILES, "-w", films[1])
    assert ended.code == 0
    assert " 0 to compute" in ended.said


def test_a_plane_that_fits_has_one_row_with_tiles_and_without(samkit, tmp_path):
    write_film(tmp_path / "small", "film", 0, 64, 50)
    assert samkit("ingest", tmp_path / "small", "--ids", "stem", "-w", tmp_path / "w").code == 0
    assert samkit(*TILES, "-w", tmp_path / "w").code == 0
    assert (
        "1 have a row, 0 to compute"
        in samkit(*(flag for flag in TILES if flag != "--tiles"), "-w", tmp_path / "w").said
    )


# -- train-head ------------------------------------------------------------------------------------


def test_how_many_volumes_are_cut_is_said(samkit, films_to_change):
    ended = samkit(*TRAIN, "--seed", "1", "-w", films_to_change[1])
    assert ended.code == 0
    assert "cut into tiles of 64 px, each covering at least 25% of the next: 3 of 4 labelled volumes" in ended.said


def test_tiles_that_are_not_embedded_are_refused_with_a_command_that_helps(samkit, ingested_films):
    flag = ("-w", ingested_films)
    samkit("embed", "--size", "64", *flag)
    recipe = package.open_workspace(ingested_films).embeddings("nano").recipe.id
    ended = samkit(*TRAIN, *flag)
    assert ended.code == 1
    assert f"samkit embed --tiles --recipe {recipe}" in ended.said
    assert samkit("embed", "--tiles", "--recipe", recipe, *flag).code == 0
    assert samkit(*TRAIN, *flag).code == 0


def test_where_every_plane_fits_tiles_work_and_nothing_is_cut(samkit, job):
    ended = samkit(*TRAIN, *job.flag)
    assert ended.code == 0
    assert "--tiles: every plane of 4 labelled volumes fits the encoder's input of 64 px" in ended.said
    assert "nothing is cut" in ended.said


@pytest.mark.parametrize("command", [TILES, TRAIN])
@pytest.mark.parametrize("overlap", ["1", "-0.5", "nan"])
def test_an_overlap_that_cannot_be_is_refused(samkit, films, command, overlap):
    ended = samkit(*command, "--tile-overlap", overlap, "-w", films[1])
    assert ended.code == 2
    assert f"--tile-overlap {overlap}: give the share" in ended.said


@pytest.mark.parametrize("command", [TILES, TRAIN])
def test_an_overlap_of_tiles_without_tiles_is_refused(samkit, films, command):
    ended = samkit(*(flag for flag in command if flag != "--tiles"), "--tile-overlap", "0.5", "-w", films[1])
    assert ended.code == 2
    assert "--tile-overlap 0.5: of tiles" in ended.said
    assert "Add --tiles" in ended.said


def test_an_overlap_in_the_settings_waits_for_tiles(samkit, job, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "samkit.toml").write_text("[train-head]\ntile-overlap = 0.5\n")
    without, with_tiles = (samkit(*TRAIN[:6], *flags, *job.flag) for flags in ((), ("--tiles",)))
    assert (without.code, with_tiles.code) == (0, 0)
    assert {run.settings.tiles for run in open_workspace(job.workspace).runs.values()} == {None, 0.5}


def test_the_report_tells_a_run_on_tiles_from_one_on_resized_planes(samkit, films_to_change):
    flag = ("-w", films_to_change[1])
    samkit("embed", "--size", "64", "--precision", "float32", *flag)
    assert samkit(*(each for each in TRAIN if each != "--tiles"), *flag).code == 0
    told = samkit("report", *flag).said
    assert "tiles 0.25" in told
    assert "tiles none" in told


# -- predict ---------------------------------------------------------------------------------------


def test_masks_lie_on_the_pixels_of_their_pictures_and_are_those_that_were_scored(samkit, films, tmp_path):
    _, workspace = films
    assert samkit("predict", "latest", "-o", tmp_path / "m", "--format", "png", "-w", workspace).code == 0
    masks = {path.stem: np.asarray(Image.open(path)) for path in (tmp_path / "m").glob("*.png")}
    assert {name: mask.shape for name, mask in masks.items()} == {f"film{n}": size for n, size in enumerate(SIZES)}
    (run,) = open_workspace(workspace).runs.values()
    assert run.predictions
    for volume_id, scored in run.predictions.items():
        np.testing.assert_array_equal(masks[volume_id], scored[0])


def test_a_new_file_gets_the_mask_that_it_gets_in_the_workspace(samkit, films, tmp_path):
    _, workspace = films
    # Of the same content but for one pixel, so that nothing of it is embedded.
    image = write_film(tmp_path / "new", "film", 0, *SIZES[0], label=False)
    pixels = np.array(Image.open(image))
    pixels[0, 0] += 1
    Image.fromarray(pixels).save(image)
    ended = samkit("predict", "latest", image, "-o", tmp_path / "m", "--format", "png", "-w", workspace)
    assert ended.code == 0, ended.said
    assert "9 to compute" in ended.said
    samkit("predict", "latest", "-o", tmp_path / "w", "--format", "png", "-w", workspace)
    (mine,) = (tmp_path / "m").glob("*.png")
    mask, theirs = np.asarray(Image.open(mine)), np.asarray(Image.open(tmp_path / "w" / "film0.png"))
    assert (mask == theirs).mean() > 0.99


def test_files_of_the_workspace_are_not_encoded_again(samkit, films, tmp_path):
    data, workspace = films
    ended = samkit(
        "predict", "latest", data / "images", "--ids", "stem", "-o", tmp_path / "m", "--format", "png", "-w", workspace
    )
    assert ended.code == 0
    assert "4 of 4 volumes embedded in the workspace already" in ended.said


def test_a_volume_whose_tiles_are_not_embedded_is_refused_before_the_first_mask(samkit, films_to_change, tmp_path):
    _, workspace = films_to_change
    write_film(tmp_path / "more", "later", 9, 100, 100)
    samkit("ingest", tmp_path / "more", "--ids", "stem", "-w", workspace)
    samkit("embed", "--size", "64", "--precision", "float32", "-w", workspace)
    ended = samkit("predict", "latest", "-o", tmp_path / "m", "-w", workspace)
    assert ended.code == 1
    assert "4 of 29 slices and tiles of the workspace's volumes" in ended.said
    assert "samkit embed --tiles --recipe" in ended.said
    assert not (tmp_path / "m").exists()


# -- a radiograph ----------------------------------------------------------------------------------


def write_radiograph(folder: Path, seed: int, side: int) -> np.ndarray:
    """Write a film of broad shades, grain and disks of 50 to 120 pixels, and return which pixels are of disks."""
    random = np.random.default_rng(seed)
    y, x = np.ogrid[:side, :side]
    image = 90 + 40 * np.sin(x / 700) * np.cos(y / 900) + random.normal(0, 6, (side, side)).astype(np.float32)
    label = np.zeros((side, side), np.uint8)
    for _ in range(60 * side**2 // 4000**2 + 4):
        row, column, radius = *random.uniform(0, side, 2), random.uniform(25, 60)
        label[(y - row) ** 2 + (x - column) ** 2 < radius**2] = 1
    image[label == 1] += 90
    for kind, pixels in (("images", np.clip(image, 0, 255).astype(np.uint8)), ("labels", label)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / kind / f"film{seed}.png")
    return label


@pytest.mark.slow
def test_a_radiograph_of_4000_pixels_is_embedded_learnt_and_segmented_at_full_resolution(samkit, tmp_path):
    for seed, side in enumerate((4000, 900, 900)):
        write_radiograph(tmp_path / "data", seed, side)
    flag = ("-w", tmp_path / "w")
    assert samkit("ingest", tmp_path / "data", "--ids", "stem", *flag).code == 0
    ended = samkit("embed", "--size", "256", "--tiles", *flag)
    assert (ended.code, f"{21**2 + 2 * 5**2} to compute" in ended.said) == (0, True), ended.said
    assert samkit("train-head", "linear", "--volumes", "2", "--steps", "60", "--tiles", *flag).code == 0
    label = write_radiograph(tmp_path / "new", 3, 4000)
    new = tmp_path / "new" / "images"
    assert samkit("predict", "latest", new, "--ids", "stem", "-o", tmp_path / "m", "--format", "png", *flag).code == 0
    mask = np.asarray(Image.open(tmp_path / "m" / "film3.png"))
    assert mask.shape == (4000, 4000)
    dice = 2 * np.count_nonzero(mask & label) / (np.count_nonzero(mask) + np.count_nonzero(label))
    assert dice > 0.8, dice
