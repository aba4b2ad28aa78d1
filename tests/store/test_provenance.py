"""Which code a record says that it was made by."""

from __future__ import annotations

import subprocess

import pytest

from samkit.store import provenance


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout with one commit of code and of what a benchmark measured."""
    for name in ("store/provenance.py", "weights.safetensors", "results.json"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text("as committed", encoding="utf-8")
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "first"]):
        person = ["-c", "user.name=samkit", "-c", "user.email=samkit@localhost"]
        subprocess.run(["git", "-C", str(tmp_path), *person, *words], check=True)
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "store" / "provenance.py"))
    return tmp_path


def code_version():
    return provenance.code_version.__wrapped__()


def test_code_of_a_checkout_is_named_by_its_commit(checkout):
    commit = subprocess.check_output(["git", "-C", str(checkout), "rev-parse", "HEAD"], text=True)
    assert code_version() == f"{provenance.version('samkit')}+{commit[:7]}"


@pytest.mark.parametrize("name", ["store/provenance.py", "weights.safetensors"])
def test_code_or_weights_that_are_not_the_commits_are_dirty(checkout, name):
    (checkout / name).write_text("changed", encoding="utf-8")
    assert code_version().endswith("-dirty")


def test_what_a_benchmark_writes_makes_no_code_dirty(checkout):
    (checkout / "results.json").write_text("changed", encoding="utf-8")
    assert not code_version().endswith("-dirty")


def test_code_without_a_checkout_is_named_by_its_version(checkout, monkeypatch):
    monkeypatch.setattr(provenance, "__file__", str(checkout.parent / "elsewhere" / "store" / "provenance.py"))
    assert code_version() == provenance.version("samkit")
