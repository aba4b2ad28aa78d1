"""report through the command line: the page, the CSV and the JSON say what the runs' own files say."""

from __future__ import annotations

import base64
import csv
import dataclasses
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from examples.edits import rewrite
from PIL import Image

import samkit as package
from samkit.heads.linear import Linear
from samkit.stages.synthesis.anatomy import draw_subject
from samkit.stages.synthesis.files import write_nifti_pair
from samkit.store.arrays import array_files


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
            ["embed", "--size", "64", "--weights", "seeded"],
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
    shown = [row for row in cells.rows if len(row) > 15]
    for row, kept in zip(shown, table_rows(made), strict=True):
        assert row[0].startswith(kept["head"])
        assert row[2] == kept["class_name"]
        assert row[3] == f"{100 * kept['dice']['mean']:.1f}"
        assert row[-1] == kept["recipe_id"]


def test_json_on_the_terminal_is_the_table(samkit, made, tmp_path):
    ended = samkit("report", "--json", "--workspace", made)
    assert json.loads(ended.out) == table_rows(made)


@pytest.mark.parametrize("table_format", ["json", "csv", "markdown", "latex"])
def test_a_table_in_a_file_is_the_one_on_the_terminal(samkit, made, tmp_path, table_format):
    printed = samkit("report", "--format", table_format, "--workspace", made).out
    assert samkit("report", "--format", table_format, "-o", tmp_path / "t", "--workspace", made).code == 0
    assert (tmp_path / "t").read_text().strip() == printed.strip()


def test_csv_on_the_terminal_is_the_one_beside_the_page(samkit, made):
    printed = samkit("report", "--format", "csv", "--workspace", made).out
    assert printed.strip() == (made / "report/table.csv").read_text().strip()


def test_markdown_has_a_line_a_head_and_the_numbers_of_the_json(samkit, made):
    lines = samkit("report", "--format", "markdown", "--workspace", made).out.strip().splitlines()
    columns, *heads = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "---" not in line]
    classes = ["liver", "spleen", "<b>left</b>", "right"]
    assert columns == ["labelled", "head", "draws", *classes, "mean", "worst draw", "HD95 mm", "ASSD mm", "missed"]
    means = [row for row in table_rows(made) if row["class_name"] == "all classes"]
    assert [head[:2] for head in heads] == [["1", "linear"], ["2", "autosam"]]
    for head, row in zip(heads, means, strict=True):
        dice = row["dice"]
        spread = "" if dice["standard_deviation"] is None else f" ± {100 * dice['standard_deviation']:.1f}"
        assert head[7] == f"{100 * dice['mean']:.1f}{spread}"
        assert (head[2], head[8]) == (f"{row['draws']}", f"{100 * dice['worst']:.1f}")
        assert head[11] == f"{row['prediction_empty']}"


def test_latex_is_a_tabular_with_booktabs_whose_names_are_escaped(samkit, made):
    told = samkit("report", "--format", "latex", "--workspace", made).out
    assert told.startswith("\\begin{tabular}")
    assert all(rule in told for rule in ("\\toprule", "\\midrule", "\\bottomrule"))
    assert "\\ensuremath{<}b\\ensuremath{>}left" in told


def test_two_heads_are_compared_on_what_both_have(samkit, copied):
    assert samkit("train-head", "ridge", "--volumes", "1", "--draws", "2", "--workspace", copied).code == 0
    ended = samkit("report", "--compare", "linear", "ridge", "--workspace", copied)
    assert ended.code == 0
    means = {row["head"]: row["dice"]["mean"] for row in json.loads(samkit("report", "--json", "-w", copied).out)}
    del means["autosam"]
    first, second, difference = (
        float(text) for text in re.findall(r"([-0-9.]+) \(", ended.out.split("difference")[-1])
    )
    assert (first, second) == tuple(pytest.approx(100 * means[head], abs=0.06) for head in ("linear", "ridge"))
    assert difference == pytest.approx(first - second, abs=0.11)


def test_a_head_is_found_without_its_encoder_where_there_are_several(samkit, copied):
    for command in (("train-head", "unet", "--steps", "1"), ("train-head", "ridge")):
        assert samkit(*command, "--volumes", "1", "--draws", "2", "--workspace", copied).code == 0
    ended = samkit("report", "--compare", "ridge", "unet", "--workspace", copied)
    assert ended.code == 0, ended.said


@pytest.mark.parametrize(
    ("one", "other", "told"),
    [
        ("linear", "nothing", "'nothing': is no experiment here. Name one of: autosam; linear"),
        ("linear", "autosam", "no draw of the same split is in both"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_what_there_is(samkit, made, one, other, told):
    ended = samkit("report", "--compare", one, other, "--workspace", made)
    assert ended.code == 2
    assert told in ended.said


def test_a_head_with_two_experiments_has_to_be_named_as_the_table_does(samkit, copied):
    assert samkit("train-head", "linear", "--volumes", "1", "--steps", "3", "--workspace", copied).code == 0
    ended = samkit("report", "--compare", "linear", "autosam", "--workspace", copied)
    assert "means 2 experiments. Name one of: linear (steps 20); linear (steps 3)" in ended.said
    ended = samkit("report", "--compare", "linear (steps 3)", "linear (steps 20)", "--workspace", copied)
    assert ended.code == 0


def test_the_page_says_that_the_encoders_numbers_come_from_a_seed(page):
    assert "The weights of an encoder of this report come from a seed" in page


def test_names_of_labels_are_text_and_never_markup(page):
    assert "<b>left</b>" not in page
    assert "&lt;b&gt;left&lt;/b&gt;" in page


def test_the_page_needs_nothing_from_elsewhere(page):
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)


def test_each_head_has_its_worst_and_its_best_volume_pictured_once(page):
    titles = re.findall(r"<figure data-case.*?<h3>(.*?)</h3>", page)
    assert [title.partition(",")[0] for title in titles] == [
        "linear@1#0: worst",
        "linear@1#0: best",
        "autosam@2#0: worst",
        "autosam@2#0: best",
    ]


def test_experiments_that_the_table_tells_apart_are_each_pictured(samkit, copied, tmp_path):
    assert samkit("train-head", "linear", "--volumes", "1", "--steps", "3", "--workspace", copied).code == 0
    assert samkit("report", "--output", tmp_path / "r", "--workspace", copied).code == 0
    text = (tmp_path / "r/index.html").read_text()
    titles = re.findall(r"<figure data-case.*?<h3>(.*?): worst", text)
    assert titles == ["linear@1#0 (steps 20)", "linear@1#0 (steps 3)", "autosam@2#0"]


def test_pictures_decode(page):
    found = set(re.findall(r"data:image/(?:webp|png);base64,([^\"&]+)", page))
    assert len(found) > 4
    for data in found:
        Image.open(io.BytesIO(base64.b64decode(data))).load()


def test_pixels_that_are_not_square_are_drawn_to_their_proportions(page):
    """24 x 48 pixels of 9 x 4.5 mm are a square of 216 mm: so are the pictures."""
    sizes = set(re.findall(r'viewBox="0 0 (\S+) (\S+)" role', page))
    assert {float(width) / float(height) for width, height in sizes} == {1.0}


def test_every_run_is_traced_to_its_head_its_split_and_its_code(made, page):
    for run in package.open_workspace(made).runs.values():
        assert run.id in page
        assert run.record["head_sha256"][:12] in page
        assert run.settings.split_digest[:8] in page


def test_plots_take_their_ink_from_the_page(page):
    plots = re.findall(r"<svg.*?</svg>", page[page.index('id="plots"') : page.index('id="results"')], re.DOTALL)
    assert len(plots) == 3
    for plot in plots:
        assert "currentColor" in plot
        assert "#000000" not in plot


def test_equal_runs_give_equal_pages(samkit, made, tmp_path, page):
    assert samkit("report", "--output", tmp_path / "r", "--workspace", made).code == 0
    assert (tmp_path / "r/index.html").read_text() == page


def test_a_report_goes_where_it_is_asked_to(samkit, made, tmp_path):
    ended = samkit("report", "--output", tmp_path / "mine", "--workspace", made)
    assert str(tmp_path / "mine/index.html") in ended.said
    assert {path.name for path in (tmp_path / "mine").iterdir()} == {"index.html", "table.csv", "table.json"}


# -- what is averaged with what --------------------------------------------------------------------


@pytest.fixture
def copied(made, tmp_path) -> Path:
    """A copy of the workspace that a test may change; the raw files stay where they are."""
    shutil.copytree(made, tmp_path / "workspace")
    return tmp_path / "workspace"


def ingest_anew(samkit, folder: Path, workspace: Path, names: list[str]) -> None:
    """Give volumes other pixels on another grid."""
    for name in names:
        write_nifti_pair(folder, name, draw_subject(50, shape=(5, 40, 30), spacing_mm=(9.0, 6.0, 7.0)))
    assert samkit("ingest", folder, "--replace", "--workspace", workspace).code == 0


def test_a_prediction_that_was_changed_is_not_pictured_but_refused(samkit, copied):
    shutil.rmtree(copied / "report")
    run = next(run for run in package.open_workspace(copied).runs.values() if run.settings.head == "linear")
    for volume in run.scores:  # whichever the page would show
        prediction = run.predictions[volume["volume_id"]]
        (run.folder / "predictions" / volume["volume_id"]).publish_folder(array_files(np.zeros_like(prediction)))
    ended = samkit("report", "--workspace", copied)
    assert ended.code == 1
    assert f"run {run.id} (linear@1#0): predictions/" in ended.said
    assert f"is not what was written: it does not match its digest in run.json. Remove {run.folder}" in ended.said
    assert not (copied / "report").exists()


def test_a_stale_run_enters_no_average_and_is_listed_with_its_reason(samkit, copied, tmp_path):
    runs = package.open_workspace(copied).runs
    first = next(run for run in runs.values() if run.alias == "linear@1#0")
    autosam = next(run for run in runs.values() if run.settings.head == "autosam")
    (changed,) = set(autosam.settings.drawn_volumes) - set(first.settings.drawn_volumes)
    stale = [run for run in runs.values() if changed in run.settings.drawn_volumes]
    ingest_anew(samkit, tmp_path / "new", copied, [changed])
    ended = samkit("report", "--workspace", copied)
    assert ended.code == 0
    page = re.sub("</?code>", "", (copied / "report/index.html").read_text())
    for run in stale:
        told = f"left out: {run.id} ({run.alias}) because the slices of {changed} changed"
        assert told in " ".join(ended.err.split())
        assert told in page
    named = {run_id for row in table_rows(copied) for run_id in row["run_ids"]}
    assert named == set(runs) - {run.id for run in stale}
    assert "autosam@2#0: worst" not in page


def test_of_stale_runs_alone_there_is_no_report(samkit, copied, tmp_path):
    test = {volume["volume_id"] for run in package.open_workspace(copied).runs.values() for volume in run.scores}
    before = (copied / "report/index.html").read_bytes()
    ingest_anew(samkit, tmp_path / "new", copied, sorted(test))
    ended = samkit("report", "--workspace", copied)
    assert ended.code == 1
    assert "every run is stale" in ended.said
    assert "samkit train-head" in ended.said
    assert (copied / "report/index.html").read_bytes() == before


def test_a_stale_run_is_stale_for_status_and_report_alike(samkit, copied, tmp_path):
    test = {volume["volume_id"] for run in package.open_workspace(copied).runs.values() for volume in run.scores}
    ingest_anew(samkit, tmp_path / "new", copied, sorted(test))
    told = json.loads(samkit("status", "--json", "--workspace", copied).out)["runs"]
    said = samkit("report", "--workspace", copied).said
    assert all(f"{run['id']}: {run['stale']}" in said for run in told)


def test_experiments_that_differ_in_a_setting_never_mix_and_say_in_which(samkit, copied):
    train = ("train-head", "linear", "--volumes", "1", "--workspace", copied)
    assert samkit(*train, "--steps", "3").code == 0
    assert samkit(*train, "--steps", "3", "--seed", "5").code == 0
    assert samkit("report", "--workspace", copied).code == 0
    kept = {row["head_settings"]: row["draws"] for row in table_rows(copied) if row["head"] == "linear"}
    assert kept == {"seed 0, steps 20": 2, "seed 0, steps 3": 1, "seed 5, steps 3": 1}
    assert "linear (seed 0, steps 3)" in (copied / "report/index.html").read_text()


def test_heads_of_the_same_draws_are_compared_with_the_best(samkit, copied):
    assert samkit("train-head", "ridge", "--volumes", "1", "--draws", "2", "--workspace", copied).code == 0
    assert samkit("report", "--workspace", copied).code == 0
    page = (copied / "report/index.html").read_text()
    section = page.partition('id="standings"')[2].partition("<h2")[0]
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", section)
    rows = [cells[first : first + 10] for first in range(0, len(cells), 10)]
    dice = {
        row["head"]: f"{100 * row['dice']['mean']:.1f}"
        for row in table_rows(copied)
        if row["subjects"] == 1 and row["class_name"] == "all classes"
    }
    assert {row[1]: row[2] for row in rows} == dice
    best, other = rows
    assert (best[0], best[5:]) == ("1", ["-", "-", "-", "2", "2"])
    assert float(other[5]) == pytest.approx(float(best[2]) - float(other[2]), abs=0.11)
    assert float(other[6]) <= float(other[5]) <= float(other[7])


def test_heads_of_unlike_numbers_of_subjects_are_one_line_only_if_fitted_alike(samkit, copied):
    """What more labels bring is no question of 20 steps and of 3."""
    assert samkit("train-head", "linear", "--volumes", "2", "--steps", "3", "--workspace", copied).code == 0
    assert samkit("report", "--workspace", copied).code == 0
    told = {(row["subjects"], row["head_settings"]) for row in table_rows(copied) if row["head"] == "linear"}
    assert told == {(1, "steps 20"), (2, "steps 3")}
    page = (copied / "report/index.html").read_text()
    assert {"linear (steps 20)", "linear (steps 3)"} <= set(re.findall(r"linear \(steps \d+\)", page))


def test_another_revision_of_a_head_is_another_experiment(samkit, copied, monkeypatch):
    monkeypatch.setattr(Linear, "revision", 2)
    train = ("train-head", "linear", "--volumes", "1", "--steps", "20", "--workspace", copied)
    assert samkit(*train).code == 0
    assert samkit("report", "--workspace", copied).code == 0
    told = {row["head_settings"]: row["draws"] for row in table_rows(copied) if row["head"] == "linear"}
    assert told == {"revision 1": 2, "revision 2": 1}


def test_draws_of_the_same_subjects_are_told_beside_their_number(samkit, copied):
    """Of a pool of four, eight draws of one subject."""
    assert samkit("train-head", "ridge", "--volumes", "1", "--draws", "8", "--workspace", copied).code == 0
    runs = [run for run in package.open_workspace(copied).runs.values() if run.settings.head == "ridge"]
    unlike = len({run.settings.drawn for run in runs})
    assert samkit("report", "--workspace", copied).code == 0
    assert {row["unlike_draws"] for row in table_rows(copied) if row["head"] == "ridge"} == {unlike}
    assert f"<td>8 ({unlike} unlike)</td>" in (copied / "report/index.html").read_text()


def test_a_class_that_a_draw_missed_is_told_in_the_draws_of_its_distance(made):
    lines = list(csv.DictReader(io.StringIO((made / "report/table.csv").read_text())))
    for line, row in zip(lines, table_rows(made), strict=True):
        assert line["hd95_draws"] == str(row["hd95"]["draws"])


def test_the_page_says_who_was_scored_and_who_was_told_by_the_reference(samkit, copied):
    assert "Scored on 2 test subjects of the split default, from" in (copied / "report/index.html").read_text()
    assert samkit("train-head", "sam-box", "--volumes", "0", "--workspace", copied).code == 0
    assert samkit("split", "other", "--test-share", "0.5", "--workspace", copied).code == 0
    train = ("train-head", "ridge", "--volumes", "1", "--split", "other", "--workspace", copied)
    assert samkit(*train).code == 0
    assert samkit("report", "--workspace", copied).code == 0
    page = (copied / "report/index.html").read_text()
    assert "Scored on 2 test subjects of the split default, 3 test subjects of the split other, from" in page
    assert "Told by the reference where things are: sam-box (split default)." in page


def test_where_nothing_can_be_compared_nothing_is(page):
    assert "Which is better" not in page


def test_runs_scored_on_other_volumes_never_mix(samkit, copied):
    """As after a run was copied in from before a label was mended: the same head, another test set."""
    runs = list(package.open_workspace(copied).runs.values())
    first, second = (run for run in runs if run.settings.head == "linear")
    rewrite(second.folder / "run.json", lambda manifest: manifest["settings"]["scored_volumes"].popitem())
    assert samkit("report", "--workspace", copied).code == 0
    rows = [row for row in table_rows(copied) if row["head"] == "linear"]
    assert {tuple(row["run_ids"]) for row in rows} == {(first.id,), (second.id,)}
    assert all(row["head_settings"].startswith("test set ") for row in rows)


@pytest.fixture
def of_two_test_sets(copied) -> Path:
    """The workspace, as if autosam had been scored before another test subject came."""
    (run,) = (run for run in package.open_workspace(copied).runs.values() if run.settings.head == "autosam")
    rewrite(run.folder / "run.json", lambda manifest: manifest["settings"]["scored_volumes"].popitem())
    return copied


def test_heads_scored_on_different_volumes_are_told_apart_on_the_terminal(samkit, of_two_test_sets):
    ended = samkit("report", "--workspace", of_two_test_sets)
    assert ended.said.count("2 different test sets were scored") == 1
    assert all(f"{head} (test set " in ended.out for head in ("linear", "autosam"))


def test_heads_scored_on_different_volumes_are_told_apart_on_the_page(samkit, of_two_test_sets):
    samkit("report", "--workspace", of_two_test_sets)
    page = (of_two_test_sets / "report/index.html").read_text()
    assert page.count("2 different test sets were scored") == 1
    assert {row["head_settings"][:8] for row in table_rows(of_two_test_sets)} == {"test set"}


def test_a_table_for_a_paper_warns_of_different_test_sets_beside_itself(samkit, of_two_test_sets):
    ended = samkit("report", "--format", "latex", "--workspace", of_two_test_sets)
    assert ended.out.startswith("\\begin{tabular}")
    assert "2 different test sets were scored" in ended.err


def test_heads_scored_on_the_same_volumes_need_no_warning(samkit, made):
    assert "test sets" not in samkit("report", "--format", "markdown", "--workspace", made).said


def test_a_draw_counts_once(samkit, copied, tmp_path):
    """A drawn subject gets a second labelled volume: the same draw is another run, and takes the place of the first."""
    first = next(run for run in package.open_workspace(copied).runs.values() if run.alias == "linear@1#0")
    (subject,) = first.settings.drawn
    write_nifti_pair(tmp_path / "d", "second", draw_subject(60, shape=(4, 24, 48), spacing_mm=(12.0, 9.0, 4.5)))
    ws = ("--workspace", copied)
    assert samkit("ingest", tmp_path / "d", *ws).code == 0
    edit_subject(copied, "second", subject)
    assert samkit("embed", *ws).code == 0
    assert samkit("train-head", "linear", "--volumes", "1", "--steps", "20", *ws).code == 0
    ended = samkit("report", *ws)
    assert ended.code == 0
    assert f"left out: {first.id}" in ended.said
    assert {row["draws"] for row in table_rows(copied) if row["head"] == "linear"} == {2}


def edit_subject(workspace: Path, volume_id: str, subject: str) -> None:
    opened = package.open_workspace(workspace)
    record = dataclasses.replace(opened.volumes[volume_id].record, subject=subject)
    opened.commit_volumes([record])


# -- widths ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [80, 99, 160])
def test_the_table_fits_the_width_and_keeps_heads_and_classes_whole(made, monkeypatch, capsys, columns):
    from samkit.pipeline import console
    from samkit.stages.reporting.table import tabulate

    monkeypatch.setattr(console.output, "width", columns)
    rows = tabulate(package.open_workspace(made).runs.values())
    console.results_table([dataclasses.replace(row, head_settings="steps 45") for row in rows])
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= columns
    assert "autosam (steps 45)" in printed
    assert printed.count("all classes") == 2
    for spared in ("volumes", "IoU %", "fit s"):
        assert (spared in printed) == (columns == 160)
    assert "…" not in printed
    for row in rows:
        assert row.dice.mean is None or f"{100 * row.dice.mean:.1f}" in printed


@pytest.mark.parametrize(("columns", "width"), [("72", 72), ("", 160), ("wide", 160), (None, 160)])
def test_a_pipe_is_as_wide_as_columns_says(monkeypatch, columns, width):
    from samkit.pipeline import console

    monkeypatch.delenv("COLUMNS", raising=False)
    if columns is not None:
        monkeypatch.setenv("COLUMNS", columns)
    assert console._width(terminal=False) == width
    assert console._width(terminal=True) is None


def test_without_runs_there_is_nothing_to_report_and_the_way_is_told(samkit, tmp_path, write_pair):
    write_pair(tmp_path / "d", "a")
    samkit("ingest", tmp_path / "d")
    ended = samkit("report")
    assert ended.code == 1
    assert "samkit train-head" in ended.said
