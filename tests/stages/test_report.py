"""report through the command line: the page, the CSV and the JSON say what the runs' own files say."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import samkit as package
from samkit.stages.synthesis.anatomy import draw_subject
from samkit.stages.synthesis.files import write_nifti_pair


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A workspace with two draws of one head and one of another, and its report."""
    from samkit.pipeline.cli import run

    folder = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))
        patch.setenv("SAMKIT_ID_KEY", "key-of-the-tests")
        patch.delenv("SAMKIT_WORKSPACE", raising=False)
        patch.chdir(folder)
        for seed in range(6):
            phantom = draw_subject(seed, shape=(4, 24, 48), spacing_mm=(12.0, 9.0, 4.5))
            write_nifti_pair(Path("data"), f"p{seed}", phantom)
        for command in (
            ["ingest", "data", "--labels", "1=liver,2=spleen,3=<b>left</b>,4=right"],
            ["embed", "--size", "64"],
            ["train-head", "linear", "--volumes", "1", "--draws", "2", "--steps", "20"],
            ["train-head", "autosam", "--volumes", "2", "--steps", "2"],
            ["report"],
        ):
            assert run(command) == 0
    return folder / "samkit-workspace"


@pytest.fixture
def page(made) -> str:
    return (made / "report/index.html").read_text()


def table_rows(made: Path) -> list[dict]:
    return json.loads((made / "report/table.json").read_text())


class Cells(HTMLParser):
    """The text of every cell of the first table, row by row."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self._inside = False

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag == "tr":
            self.rows.append([])
        self._inside = tag == "td"
        if self._inside:
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag != "td"

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.rows[-1][-1] += data


def test_the_mean_of_a_table_is_the_mean_of_the_runs_scores(made):
    """From run.json by hand: class in volume, volume in subject (one each), subject in draw, draws."""
    runs = [run for run in package.open_workspace(made).runs.values() if run.settings.head == "linear"]
    for name in ("liver", "spleen"):
        draws = [
            np.mean(
                [score["dice"] for volume in run.scores for score in volume["scores"] if score["class_name"] == name]
            )
            for run in runs
        ]
        (row,) = (row for row in table_rows(made) if (row["head"], row["class_name"]) == ("linear", name))
        assert row["dice"]["mean"] == pytest.approx(np.mean(draws))
        assert row["dice"]["standard_deviation"] == pytest.approx(np.std(draws, ddof=1))
        assert row["dice"]["worst"] == pytest.approx(min(draws))
        assert row["draws"] == 2


def test_a_row_names_the_runs_it_stands_on(made):
    named = {run_id for row in table_rows(made) for run_id in row["run_ids"]}
    assert named == set(package.open_workspace(made).runs)


def test_the_csv_holds_what_the_json_holds(made):
    with (made / "report/table.csv").open() as file:
        lines = list(csv.DictReader(file))
    rows = table_rows(made)
    assert len(lines) == len(rows)
    for line, row in zip(lines, rows, strict=True):
        assert line["class_name"] == row["class_name"]
        assert line["run_ids"].split() == row["run_ids"]
        for measure in ("dice", "iou", "hd95", "assd"):
            mean = row[measure]["mean"]
            assert line[f"{measure}_mean"] == ("" if mean is None else repr(mean))


def test_the_page_shows_the_numbers_of_the_json(made, page):
    cells = Cells()
    cells.feed(page)
    shown = [row for row in cells.rows if len(row) > 10]
    for row, kept in zip(shown, table_rows(made), strict=True):
        assert row[1] == kept["head"]
        assert row[5] == kept["class_name"]
        assert row[6] == f"{100 * kept['dice']['mean']:.1f}"


def test_json_on_the_terminal_is_the_table(samkit, made, tmp_path):
    ended = samkit("report", "--json", "--output", tmp_path / "r", "--workspace", made)
    assert json.loads(ended.out) == table_rows(made)


def test_the_page_says_that_the_encoder_is_untrained(page):
    assert "An encoder of this report is untrained" in page


def test_names_of_labels_are_text_and_never_markup(page):
    assert "<b>left</b>" not in page
    assert "&lt;b&gt;left&lt;/b&gt;" in page


def test_the_page_needs_nothing_from_elsewhere(page):
    assert not re.findall(r'(?:src|href)="(?!data:)', page)


def pictures(page: str) -> list[Image.Image]:
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in re.findall(r'base64,([^"]+)"', page)]


def test_each_head_has_its_worst_and_its_best_volume_pictured_once(page):
    titles = re.findall(r"<figcaption>(.*?)</figcaption>", page)
    assert [title.partition(",")[0] for title in titles] == [
        "linear@1#0: worst volume",
        "linear@1#0: best volume",
        "autosam@2#0: worst volume",
        "autosam@2#0: best volume",
    ]


def test_pictures_decode_and_hold_colours_on_grey(page):
    for picture in pictures(page):
        pixels = np.asarray(picture.convert("RGB"), dtype=int)
        assert ((pixels.max(axis=2) - pixels.min(axis=2)) > 100).sum() > 200, "outlines and their legend"


def test_pixels_that_are_not_square_are_drawn_to_their_proportions(page):
    """24 x 48 pixels of 9 x 4.5 mm are a square of 216 mm: so are the panels."""
    grey = np.asarray(pictures(page)[0].convert("L"))
    dark = grey < 60
    panel = dark[:, : dark.shape[1] // 3]
    rows, columns = np.flatnonzero(panel.mean(axis=1) > 0.15), np.flatnonzero(panel.mean(axis=0) > 0.15)
    assert np.ptp(rows) / np.ptp(columns) == pytest.approx(1, abs=0.1)


def test_a_report_goes_where_it_is_asked_to(samkit, made, tmp_path):
    ended = samkit("report", "--output", tmp_path / "mine", "--workspace", made)
    assert str(tmp_path / "mine/index.html") in ended.said
    assert {path.name for path in (tmp_path / "mine").iterdir()} == {"index.html", "table.csv", "table.json"}


def test_a_volume_that_was_ingested_anew_on_another_grid_is_left_out_of_the_pictures(samkit, made, tmp_path):
    workspace = tmp_path / "w"
    shutil.copytree(made, workspace)
    test = {volume["volume_id"] for run in package.open_workspace(made).runs.values() for volume in run.scores}
    for name in test:
        write_nifti_pair(tmp_path / "new", name, draw_subject(50, shape=(5, 40, 30), spacing_mm=(9.0, 6.0, 7.0)))
    assert samkit("ingest", tmp_path / "new", "--replace", "--workspace", workspace).code == 0
    assert samkit("report", "--workspace", workspace).code == 0
    assert "<figure>" not in (workspace / "report/index.html").read_text()


def test_without_runs_there_is_nothing_to_report_and_the_way_is_told(samkit, tmp_path, write_pair):
    write_pair(tmp_path / "d", "a")
    samkit("ingest", tmp_path / "d")
    ended = samkit("report")
    assert ended.code == 1
    assert "samkit train-head" in ended.said
