"""A ladder is trained and predicts by the command line as any head."""

from __future__ import annotations

import pytest
import torch

import samkit as package
from samkit.heads.ladder import Ladder


@pytest.mark.parametrize("gate", ["learned", "fixed", "cnn-only", "sam-only"])
def test_each_gate_is_a_run_of_its_own_that_predicts(samkit, job, tmp_path, gate):
    ended = samkit("train-head", "ladder", "--gate", gate, "--volumes", "1", "--steps", "2", *job.flag)
    assert ended.code == 0
    assert "its CNN begins from random numbers" in ended.said
    run = package.open_workspace(job.workspace).runs.find("latest")
    assert run.settings.head_config["gate"] == gate
    assert 0 <= run.steps[-1]["told"]["gate"] <= 1
    assert samkit("predict", run.id, "--output", str(tmp_path / "masks"), *job.flag).code == 0
    assert len(list((tmp_path / "masks").glob("*.nii.gz"))) == 4


def test_weights_of_the_cnn_are_part_of_the_run(samkit, job, tmp_path):
    cnn = Ladder(channels=32, class_count=2).cnn.state_dict()
    torch.save({**cnn, "fc.weight": torch.zeros(1000, 512)}, tmp_path / "resnet18-f37072fd.pth")
    flags = ("train-head", "ladder", "--volumes", "1", "--steps", "1", *job.flag)
    assert samkit(*flags, "--cnn-weights", str(tmp_path / "resnet18-f37072fd.pth")).code == 0
    run = package.open_workspace(job.workspace).runs.find("latest")
    assert run.settings.head_config["cnn_start"].startswith("imagenet ")
    assert samkit(*flags).code == 0
    assert package.open_workspace(job.workspace).runs.find("latest").id != run.id
