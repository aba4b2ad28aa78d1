"""samkit.toml gives defaults, flags win, and the key that hashes ids is the user's own."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import platformdirs
import pytest

from samkit.pipeline.config import id_key, read_config
from samkit.store.errors import UsageError


def test_a_missing_file_is_an_empty_one(tmp_path):
    assert read_config(tmp_path / "samkit.toml", {"embed": ["size"]}) == {}


def test_a_setting_in_samkit_toml_is_the_default_of_its_flag(samkit, ingested):
    Path("samkit.toml").write_text(f'[embed]\nsize = 64\nworkspace = "{ingested.workspace}"\n')
    ended = samkit("embed")
    assert ended.code == 0
    assert "64 px" in ended.said


def test_a_flag_wins_over_samkit_toml(samkit, ingested):
    Path("samkit.toml").write_text("[embed]\nsize = 64\n")
    assert "32 px" in samkit("embed", "--size", "32", *ingested.flag).said


def test_a_required_flag_may_come_from_samkit_toml(samkit, job):
    Path("samkit.toml").write_text("[train-head]\nvolumes = 2\nsteps = 3\nlearning-rate = 0.01\n")
    assert samkit("train-head", "linear", *job.flag).code == 0
    assert "linear@2#0" in samkit("status", *job.flag).said


def test_a_setting_is_called_as_its_flag_is(samkit, finished):
    Path("samkit.toml").write_text("[status]\njson = true\n")
    assert json.loads(samkit("status", *finished.flag).out)["dataset"]["volumes"] == 4


def test_a_setting_of_the_wrong_kind_is_wrong_usage(samkit, finished):
    Path("samkit.toml").write_text('[embed]\nsize = "large"\n')
    ended = samkit("embed", *finished.flag)
    assert ended.code == 2
    assert "--size" in ended.said


def test_the_environment_names_the_workspace(samkit, finished, monkeypatch):
    monkeypatch.setenv("SAMKIT_WORKSPACE", str(finished.workspace))
    assert "4 volumes" in samkit("status").said


def test_a_setting_that_is_no_section_is_refused(tmp_path):
    (tmp_path / "samkit.toml").write_text("size = 64\n")
    with pytest.raises(UsageError, match="unknown section"):
        read_config(tmp_path / "samkit.toml", {"embed": ["size"]})


def test_the_key_is_made_once_for_the_user_alone(monkeypatch):
    monkeypatch.delenv("SAMKIT_ID_KEY")
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    first = id_key()
    path = platformdirs.user_config_path("samkit") / "id.key"
    assert len(first) >= 32
    assert id_key() == first
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_key_in_the_environment_wins(monkeypatch):
    monkeypatch.setenv("SAMKIT_ID_KEY", "mine")
    assert id_key() == b"mine"
