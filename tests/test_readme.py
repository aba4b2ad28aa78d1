"""The numbers of the README and of nano's card are those that were measured."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from samkit.stages.encoders.digests import file_sha256
from samkit.stages.encoders.nano import NANO

ROOT = Path(__file__).resolve().parents[1]


def benchmark(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_section_on_costs_is_made_from_what_was_measured():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert benchmark("readme").with_costs(text) == text, "run python benchmarks/readme.py"


def test_the_card_of_nano_has_what_was_measured():
    card = benchmark("nano_card")
    text = card.CARD.read_text(encoding="utf-8")
    assert card.with_proof(text) == text, "run python benchmarks/nano_card.py"


def test_what_the_card_of_nano_shows_was_measured_with_the_weights_that_ship():
    card = benchmark("nano_card")
    for name in {*card.kept_rounds(), card.TRIES}:
        assert card.kept(name)["weights_sha256"] == file_sha256(NANO.own_weights)
