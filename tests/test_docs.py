"""The pages of docs name commands and flags that are there, files that parse, pages that exist; the tutorial runs."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
import yaml
from distributed.cli.dask_scheduler import main as dask_scheduler
from distributed.cli.dask_worker import main as dask_worker

from samkit.pipeline.cli import app
from samkit.stages.synthesis.anatomy import draw_subject
from samkit.stages.synthesis.files import write_nifti_pair

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = sorted(page for page in DOCS.rglob("*.md") if page.parent.name != "reference")
SAMKIT = typer.main.get_command(app)


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> Iterator[list[str]]:
    """Yield the commands of a page: in its shell blocks, its indented lines, its text and its manifests."""
    indented = [line.strip() for line in page.read_text().splitlines() if line.startswith("    ")]
    told = re.findall(r"`((?:samkit|dask) [^`\n]+)`", page.read_text())
    lines = [line for block in blocks(page, "bash") for line in block.splitlines()] + indented + told
    for line in lines:
        words = shlex.split(line, comments=True) if re.search(r"\b(samkit|dask) ", line) else []
        for first in ("samkit", "dask"):
            if first in words:
                yield [word for word in words[words.index(first) :] if word != "&"]
    for manifest in blocks(page, "yaml"):
        for document in yaml.safe_load_all(manifest):
            for container in document["spec"].get("template", {}).get("spec", {}).get("containers", []):
                yield container["command"]


def known(words: list[str]) -> tuple[Any, list[str]]:
    """The command that words name, or None, and what follows them."""
    if words[0] == "dask":
        return {"worker": dask_worker, "scheduler": dask_scheduler}.get(words[1]), words[2:]
    command, rest = SAMKIT, words[1:]
    while hasattr(command, "commands"):
        command, rest = command.commands.get(rest[0]), rest[1:]
    return command, rest


CASES = [(page.name, words) for page in PAGES for words in commands(page)]


def test_the_pages_and_their_commands_are_found():
    assert {"few-shot.md", "several-gpus.md", "slurm.md", "dask.md", "kubernetes.md"} <= {page.name for page in PAGES}
    assert {"embed"} <= {words[1] for _, words in CASES if words[0] == "samkit"}
    assert {"worker", "scheduler"} <= {words[1] for _, words in CASES if words[0] == "dask"}


@pytest.mark.parametrize(
    ("page", "words"), CASES, ids=lambda value: " ".join(value) if isinstance(value, list) else value
)
def test_a_command_and_its_flags_are_there(page, words):
    if words[:2] == ["dask", "cuda"]:
        pytest.skip("dask-cuda needs a GPU to be installed")
    command, rest = known(words)
    assert command is not None, words
    flags = {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}
    assert [word for word in rest if word.startswith("--") and word.partition("=")[0] not in flags] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_in_a_page_parses(page):
    for block in blocks(page, "python"):
        ast.parse(block)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_manifests_name_what_they_are(page):
    for manifest in blocks(page, "yaml"):
        for document in yaml.safe_load_all(manifest):
            assert {"apiVersion", "kind", "metadata", "spec"} <= document.keys()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_reference_of_the_command_line_is_what_its_help_says():
    spec = importlib.util.spec_from_file_location("cli_reference", DOCS / "cli_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.PAGE.read_text(encoding="utf-8") == module.reference(), "run python docs/cli_reference.py"


def test_every_page_is_in_the_navigation():
    listed = set(re.findall(r"[\w./-]+\.md", (DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8")))
    assert listed == {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}


@pytest.mark.slow
def test_the_commands_of_the_tutorial_run_as_they_stand(tmp_path, monkeypatch, samkit):
    """On drawn volumes, laid out and called as the dataset that the page names."""
    monkeypatch.chdir(tmp_path)
    for seed in range(8):
        phantom = draw_subject(seed, shape=(4, 36, 32), spacing_mm=(10.0, 6.0, 6.0))
        phantom = replace(phantom, label=np.minimum(phantom.label, 2))
        write_nifti_pair(Path("Task04_Hippocampus"), f"hippocampus_{seed:03d}", phantom)
    typed = [
        words
        for block in blocks(DOCS / "tutorial" / "first-study.md", "bash")
        for line in block.splitlines()
        if (words := shlex.split(line))  # a number sign inside a word is no comment
    ]
    assert {words[1] for words in typed} == {"ingest", "status", "embed", "experiment", "report", "predict"}
    for words in typed:
        ended = samkit(*words[1:])
        assert ended.code == 0, (words, ended.said)
    assert len(list(Path("masks").iterdir())) == 8
