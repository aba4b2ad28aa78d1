"""A training of the embedded encoder follows from its options, whatever interrupts it, and ends in a SAM checkpoint."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from examples.tiny_sam import TINY

from samkit.stages.encoders.nano_objective import ObjectiveWeights
from samkit.stages.encoders.pixels import prepare
from samkit.stages.encoders.train_nano import NanoTraining, TrainingOptions, embedded, learning_rate_at, main
from samkit.store.errors import FitDiverged, UsageError

OPTIONS = TrainingOptions(
    steps=6, decoder_steps=4, decoder_batches=2, decoder_masks=8, batch_size=2, subjects=2, precision="float32"
)
NOTHING = ObjectiveWeights(prompted=0.0, dense=0.0, picture=0.0, likeness=0.0, solved=0.0)
CPU = torch.device("cpu")


def training(folder, options=OPTIONS):
    return NanoTraining(folder, options, CPU, TINY)


def weights_of(run):
    return {name: tensor.clone() for name, tensor in run.parts.state_dict().items()}


def logged(run):
    """The log without its times."""
    lines = (json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines())
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    run = training(tmp_path_factory.mktemp("whole"))
    run.run()
    return run


def test_the_weights_are_a_checkpoint_that_an_encoder_loads(whole):
    encoder = TINY.load(whole.folder / "tiny.safetensors")
    assert encoder.trained
    assert encoder.mask_decoder is not None
    kept, trained = encoder.model.state_dict(), whole.parts["image_encoder"].state_dict()
    for name in ("patch_embed.proj.weight", "neck.0.weight"):
        torch.testing.assert_close(kept[name], trained[name].half().float())


def test_the_log_has_a_line_with_every_loss(whole):
    together, alone = [json.loads(line) for line in (whole.folder / "log.jsonl").read_text().splitlines()]
    assert (together["step"], alone["step"]) == (6, 10)
    assert 0 < together["seconds"] < alone["seconds"]
    asked = {"loss", "kind", "place", "border", "picture", "likeness", "solved"}
    assert asked == together.keys() - {"step", "seconds"}
    prompted = {"loss", "prompted", "box_iou", "click_iou", "corrected_iou"}
    assert prompted == alone.keys() - {"step", "seconds"}


def test_in_the_last_steps_the_decoder_learns_and_the_encoder_stands_still(whole, tmp_path):
    part = training(tmp_path, replace(OPTIONS, decoder_steps=0))
    part.run()
    before, after = weights_of(part), weights_of(whole)
    changed = {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"prompt_encoder", "mask_decoder"}


def test_the_encoder_runs_once_over_the_pictures_of_the_decoder(tmp_path, monkeypatch):
    run = training(tmp_path)
    seen = []
    embeddings = run._embeddings
    monkeypatch.setattr(run, "_embeddings", lambda batch: seen.append(run.step) or embeddings(batch))
    run.run()
    assert seen == [0, 1, 2, 3, 4, 5, 6, 7]


def test_steps_of_the_decoder_take_turns_with_its_batches():
    options = replace(OPTIONS, fine_every=2)
    assert [options.batch_at(step) for step in range(10)] == [0, 1, 2, 3, 4, 5, 6, 7, 6, 7]


def test_equal_options_give_equal_weights(whole, tmp_path):
    run = training(tmp_path)
    run.run()
    assert all(torch.equal(tensor, whole.parts.state_dict()[name]) for name, tensor in weights_of(run).items())


@pytest.mark.parametrize(
    "name",
    [
        "image_encoder.blocks.0.attn.qkv.weight",
        "image_encoder.blocks.0.mlp.lin1.weight",
        "mask_decoder.output_hypernetworks_mlps.0.layers.0.weight",
    ],
)
def test_another_seed_begins_with_other_weights(tmp_path, name):
    first, second = (weights_of(training(tmp_path / str(seed), replace(OPTIONS, seed=seed))) for seed in (0, 1))
    assert not torch.equal(first[name], second[name])


@pytest.mark.parametrize("stopped_at", [3, 8, 9])
def test_a_training_that_was_stopped_ends_as_if_it_had_not_been(whole, tmp_path, monkeypatch, stopped_at):
    monkeypatch.setattr("samkit.stages.encoders.train_nano._MINUTES_BETWEEN_CHECKPOINTS", 0.0)
    run = training(tmp_path)
    learn, taken = run._learn, []

    def interrupted(batches):
        if len(taken) == stopped_at:
            raise KeyboardInterrupt
        taken.append(learn(batches))
        return taken[-1]

    run._learn = interrupted
    with pytest.raises(KeyboardInterrupt):
        run.run()
    rest = training(tmp_path)
    assert rest.step == stopped_at
    rest.run()
    assert all(torch.equal(tensor, whole.parts.state_dict()[name]) for name, tensor in weights_of(rest).items())
    assert logged(rest) == logged(whole)


def test_a_training_that_ended_is_not_trained_again(whole):
    before = (whole.folder / "log.jsonl").read_text()
    training(whole.folder).run()
    assert (whole.folder / "log.jsonl").read_text() == before


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"learning_rate": 1e-4}, r"other options: learning_rate 0\.001, not 0\.0001\."),
        ({"objective": ObjectiveWeights(solved=2.0)}, r"other options: solved 1\.0, not 2\.0\."),
    ],
)
def test_other_options_do_not_go_on_with_it(whole, change, told):
    with pytest.raises(UsageError, match=told):
        training(whole.folder, replace(OPTIONS, **change))


def test_another_architecture_does_not_go_on_with_it(whole):
    with pytest.raises(UsageError, match="other options: model tiny, not wider"):
        NanoTraining(whole.folder, OPTIONS, CPU, replace(TINY, name="wider", width=64))


def test_a_training_on_another_device_does_not_go_on_with_it(whole, tmp_path):
    state = torch.load(whole.folder / "checkpoint.pt", weights_only=True)
    torch.save({**state, "options": {**state["options"], "device": "cuda"}}, tmp_path / "checkpoint.pt")
    with pytest.raises(UsageError, match="other options: device cuda, not cpu"):
        training(tmp_path)


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("module", lambda there: {name: there[name] for name in list(there)[1:]}),
        ("options", None),
        ("optimisers", lambda there: there[:1]),
        ("random", lambda there: there[:16]),
    ],
)
def test_a_checkpoint_of_another_samkit_is_said_to_be_one(whole, tmp_path, part, change):
    state = torch.load(whole.folder / "checkpoint.pt", weights_only=True)
    there = state.pop(part)
    torch.save(state if change is None else {**state, part: change(there)}, tmp_path / "checkpoint.pt")
    with pytest.raises(UsageError, match=r"checkpoint\.pt: cannot be read.*another samkit.*Move it away"):
        training(tmp_path)


@pytest.mark.parametrize("kept", [0.5, 0.0])
def test_a_checkpoint_that_cannot_be_read_is_said_to_be_one(whole, tmp_path, kept):
    written = (whole.folder / "checkpoint.pt").read_bytes()
    (tmp_path / "checkpoint.pt").write_bytes(written[: int(kept * len(written))])
    with pytest.raises(UsageError, match=r"checkpoint\.pt: cannot be read.*Move it away"):
        training(tmp_path)


def test_a_loss_that_is_not_finite_ends_it_and_is_not_kept(tmp_path):
    run = training(tmp_path)
    with torch.no_grad():
        run.parts["image_encoder"].pos_embed.fill_(torch.nan)
    with pytest.raises(FitDiverged, match=r"--learning-rate 0\.0005"):
        run.run()
    assert not (tmp_path / "checkpoint.pt").exists()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"steps": 0}, "--steps 0"),
        ({"decoder_masks": 1}, "--decoder-masks 1: at least 8"),
        ({"decoder_batches": 0}, "--decoder-batches 0: at least 1"),
        ({"learning_rate": -1.0}, "--learning-rate -1: a number above 0"),
        ({"learning_rate": math.nan}, "--learning-rate nan: a number above 0"),
        ({"weight_decay": -0.1}, "a weight decay of -0.1: 0 or more"),
        ({"seed": -1}, "--seed -1: at least 0"),
        ({"precision": "float16"}, "--precision float16: one of float32, bfloat16"),
        ({"subjects": 1}, "--likeness 0"),
        ({"objective": NOTHING}, "the encoder would learn nothing"),
    ],
)
def test_options_that_mean_nothing_are_refused(change, named):
    with pytest.raises(UsageError, match=named):
        replace(OPTIONS, **change)


def test_a_torch_without_muon_is_told_which_one_has_it(tmp_path, monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(UsageError, match=r"has no Muon.*pip install 'torch>=2\.9'"):
        training(tmp_path)


def test_fewer_masks_than_kinds_of_prompts_are_refused():
    with pytest.raises(UsageError, match="--masks 1: at least 2"):
        ObjectiveWeights(prompted=1.0, masks=1)


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf])
def test_a_question_that_counts_less_than_nothing_is_refused(weight):
    with pytest.raises(UsageError, match="--dense"):
        ObjectiveWeights(dense=weight)


def test_bfloat16_computes_the_same_losses_to_its_rounding(tmp_path):
    told = []
    for precision in ("float32", "bfloat16"):
        run = training(tmp_path / precision, replace(OPTIONS, steps=1, decoder_steps=0, precision=precision))
        run.run()
        told.append(logged(run)[0])
    exact, rounded = told
    for name in ("kind", "place", "border", "likeness"):
        assert rounded[name] == pytest.approx(exact[name], rel=0.03), name


def told_by_step(folder, options):
    """What each step of a training told."""
    run = training(folder, options)
    told, learn = [], run._learn
    run._learn = lambda batches: told.append(learn(batches)) or told[-1]
    run.run()
    return told


def mean_of(name, told):
    return sum(one[name] for one in told) / len(told)


@pytest.mark.parametrize("question", ["dense", "picture", "likeness", "solved"])
def test_the_encoder_learns_each_question_by_itself(tmp_path, question):
    objective = replace(NOTHING, **{question: 1.0})
    options = replace(OPTIONS, steps=80, decoder_steps=0, batch_size=4, fine_every=0, objective=objective)
    told = told_by_step(tmp_path, options)
    assert mean_of("loss", told[-20:]) < 0.9 * mean_of("loss", told[:20])


def test_the_decoder_learns_what_a_click_and_a_box_mean(tmp_path):
    options = replace(
        OPTIONS,
        steps=1,
        decoder_steps=80,
        decoder_batches=1,
        decoder_masks=16,
        batch_size=4,
        fine_every=0,
        learning_rate=4e-3,
    )
    told = told_by_step(tmp_path, options)
    for answer in ("box_iou", "click_iou", "corrected_iou"):
        assert mean_of(answer, told[1:11]) < 0.1
        assert mean_of(answer, told[-20:]) > 0.3


def test_every_second_step_sees_larger_pictures_of_fewer_scenes(tmp_path):
    run = training(tmp_path, replace(OPTIONS, batch_size=4, steps=4, decoder_steps=0))
    embed, seen = run._embeddings, []

    def noted(batch):
        embeddings = embed(batch)
        seen.append((len(batch.images), embeddings.shape[-1]))
        return embeddings

    run._embeddings = noted
    run.run()
    assert seen == [(4, 4), (1, 8), (4, 4), (1, 8)]


@pytest.mark.parametrize("size", [64, 128])
def test_pictures_are_embedded_as_an_encoder_of_their_size_embeds_them(whole, size):
    encoder = TINY.load(whole.folder / "tiny.safetensors", size=size)
    image_encoder = whole.parts["image_encoder"]
    pictures = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    prepared = prepare(pictures, input_px=size, pixel_normalisation="sam")
    with torch.no_grad():
        found = embedded(image_encoder, prepared)
        expected = encoder.model(prepared)
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-2)  # weights in float16


def test_the_rate_rises_and_falls_to_nothing():
    options = TrainingOptions(steps=3000, learning_rate=1.0)
    rates = [learning_rate_at(step, options) for step in (0, 149, 299, 1500, 2999)]
    assert rates[0] == pytest.approx(1 / 300, rel=1e-3)
    assert rates == sorted(rates[:3]) + sorted(rates[3:], reverse=True)
    assert rates[3] == pytest.approx(0.5, abs=1e-3)
    assert rates[4] < 1e-5


def test_the_rate_rises_once_more_for_the_decoder():
    options = TrainingOptions(steps=100, decoder_steps=50, learning_rate=1.0)
    assert [round(learning_rate_at(step, options), 2) for step in (99, 100, 105, 125, 149)] == [
        0.0,
        0.2,
        0.98,
        0.5,
        0.0,
    ]


def test_the_command_says_what_it_takes():
    command = [sys.executable, "-m", "samkit.stages.encoders.train_nano", "--help"]
    said = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    assert "--steps" in said
    assert "--likeness" in said


def test_the_command_refuses_in_one_line(tmp_path):
    command = [sys.executable, "-m", "samkit.stages.encoders.train_nano", str(tmp_path / "t"), "--subjects", "1"]
    ended = subprocess.run(command, capture_output=True, check=False, text=True)
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].startswith("--subjects 1: parts are compared between two subjects")
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "t").exists()


def test_ctrl_c_says_how_to_go_on(tmp_path):
    steps = ["--steps", "1", "--decoder-steps", "100000", "--batch-size", "1"]
    command = [sys.executable, "-m", "samkit.stages.encoders.train_nano", str(tmp_path), *steps]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as running:
        first = running.stderr.readline()
        os.killpg(running.pid, signal.SIGINT)  # as a terminal does: the process that draws gets it too
        _, said = running.communicate(timeout=120)
    assert json.loads(first)["step"] == 1
    assert said.splitlines() == [
        "stopped; the same command begins again: there is no checkpoint yet (made every 3 minutes)",
    ]
    assert running.returncode == 130


def test_ctrl_c_after_a_checkpoint_says_that_the_command_goes_on_from_it(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("samkit.stages.encoders.train_nano._MINUTES_BETWEEN_CHECKPOINTS", 0.0)
    monkeypatch.setattr("sys.argv", ["train_nano", str(tmp_path), "--steps", "2", "--batch-size", "1"])
    keep = NanoTraining._keep

    def kept(self):
        keep(self)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(NanoTraining, "_keep", kept)
    caplog.set_level("INFO")
    assert main() == 130
    assert "stopped; the same command goes on from the last checkpoint" in caplog.messages[-1]
    assert NanoTraining(tmp_path, TrainingOptions(steps=2, batch_size=1), CPU).step == 1
