"""Train the embedded encoder on random pictures: ``python -m samkit.stages.encoders.train_nano FOLDER``.

The folder holds everything of one training: a checkpoint, by which the same command goes on after any interruption; the
log, one line every hundred steps; and at the end the weights, in float16, as a SAM checkpoint. A training follows from
its options: equal options give equal weights and an equal log, but for its seconds, stopped on the way or not, on
processors of one kind with as many threads. (GPUs add some sums in any order.)
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import math
import os
import pickle
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ...heads.base import seeded
from ...heads.prompting import PromptedDecoder
from ...store.errors import FitDiverged, SamkitError, UsageError
from ...store.local import LocalPlace
from ..synthesis.pictures import PictureBatch, Pictures
from .devices import find_device
from .memory import keep_freed_memory
from .nano import NANO
from .nano_objective import ObjectiveWeights, Questions
from .pixels import prepare
from .sam import SamModel
from .starting_values import start_encoder, start_mask_decoder

_log = logging.getLogger(__name__)

_LOGGED_EVERY = 100
# Of the steps, but no more than so many.
_WARMUP_SHARE, _MOST_WARMUP_STEPS = 0.1, 300
_CLIPPED_NORM = 1.0
_BETAS = (0.9, 0.98)
# A step at twice the size has so many times fewer scenes, and in the decoder's own steps masks: its cells are as many.
_FEWER = 4
# Of AdamW's.
_MUON_RATE = 2.0
_TRANSFORMERS = ("image_encoder.blocks", "mask_decoder.transformer")
_WITH_MATRICES = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
_MINUTES_BETWEEN_CHECKPOINTS = 3.0
_PRECISIONS = ("float32", "bfloat16")
# What shells take for Ctrl-C.
_STOPPED = 130
_LEAST = {
    "steps": 1,
    "decoder_steps": 0,
    "decoder_batches": 1,
    "decoder_masks": 2 * _FEWER,
    "batch_size": 1,
    "subjects": 1,
    "fine_every": 0,
    "seed": 0,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingOptions:
    """Everything that decides the weights."""

    #: Of the encoder.
    steps: int = 5_000
    #: Afterwards, of the decoder: the encoder stands still, so that it runs once over so many batches, whose embeddings
    #: are kept in memory (1 GB), and the steps take turns with them, each with other prompts.
    decoder_steps: int = 3_000
    decoder_batches: int = 300
    decoder_masks: int = 32
    #: Scenes a step.
    batch_size: int = 8
    #: Of each scene.
    subjects: int = 2
    #: One step in so many sees pictures at twice their size, and a quarter of the scenes, or of the decoder's masks; 0
    #: for none.
    fine_every: int = 2
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    seed: int = 0
    #: What the encoder and the decoder compute in; losses and weights are float32.
    precision: str = "bfloat16"
    objective: ObjectiveWeights = field(default_factory=ObjectiveWeights)

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                message = f"--{name.replace('_', '-')} {getattr(self, name)}: at least {least}."
                raise UsageError(message)
        if not 0 < self.learning_rate < math.inf:
            message = f"--learning-rate {self.learning_rate:g}: a number above 0."
            raise UsageError(message)
        if not 0 <= self.weight_decay < math.inf:
            message = f"a weight decay of {self.weight_decay:g}: 0 or more."
            raise UsageError(message)
        if self.precision not in _PRECISIONS:
            message = f"--precision {self.precision}: one of {', '.join(_PRECISIONS)}."
            raise UsageError(message)
        if not self.objective.asks_encoder:
            message = (
                "--prompted, --dense, --picture, --likeness and --solved are 0: the encoder would learn nothing. "
                "Give one of them a weight above 0."
            )
            raise UsageError(message)
        if (self.objective.likeness or self.objective.solved) and self.subjects < 2:
            message = (
                "--subjects 1: parts are compared between two subjects. Give --subjects 2, or --likeness 0 --solved 0."
            )
            raise UsageError(message)

    def batch_at(self, step: int) -> int:
        """Return the number of the batch that a step, from 0, sees."""
        return step if step < self.steps else self.steps + (step - self.steps) % self.decoder_batches

    def is_fine(self, batch: int) -> bool:
        """Return whether a batch's pictures are seen at twice their size."""
        return self.fine_every > 0 and batch % self.fine_every == self.fine_every - 1

    @property
    def all_steps(self) -> int:
        """How many steps there are."""
        return self.steps + self.decoder_steps

    def to_json(self) -> dict[str, Any]:
        """Return the options as they are kept."""
        return asdict(self)


class NanoTraining:
    """One training, as far as it has come.

    Parameters
    ----------
    folder
        Of the training, made if need be; what is there is gone on with.
    options
        Everything that decides the weights.
    device
        Where it runs.
    model
        The architecture.

    Raises
    ------
    UsageError
        When the folder holds a training with other options, or a checkpoint that cannot be read.
    FitDiverged
        By `run`, at the first loss that is not finite.
    """

    def __init__(self, folder: Path, options: TrainingOptions, device: torch.device, model: SamModel = NANO) -> None:
        self.folder, self.options, self.device, self.model = folder, options, device, model
        with seeded(options.seed):
            self.parts = nn.ModuleDict(model.parts(model.default_px, seed=options.seed))
            start_encoder(self.parts["image_encoder"])
            start_mask_decoder(self.parts["mask_decoder"], self.parts["prompt_encoder"].get_submodule("pe_layer"))
            decoder = PromptedDecoder(self.parts["prompt_encoder"], self.parts["mask_decoder"])
            self.questions = Questions(decoder, options.objective)
        self._module = nn.ModuleDict({"parts": self.parts, "questions": self.questions}).to(device)
        self._optimisers = _optimisers(self._module, options)
        self._random = torch.Generator(device).manual_seed(options.seed)
        #: What the decoder sees, by the number of the batch.
        self._encoded: dict[int, _Encoded] = {}
        self.step = 0
        self.seconds = 0.0
        self.log: list[dict[str, Any]] = []
        #: What was told of the steps since the log's last line.
        self._recent: list[dict[str, float]] = []
        folder.mkdir(parents=True, exist_ok=True)
        if self.has_checkpoint:
            self._go_on()

    @property
    def _checkpoint(self) -> LocalPlace:
        return LocalPlace(self.folder / "checkpoint.pt")

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is something to go on from."""
        return self._checkpoint.exists()

    def run(self) -> Path:
        """Train to the end, or on from where it stopped, and return the file of the weights."""
        options = self.options
        started = kept = time.perf_counter()
        before = self.seconds
        with closing(self._batches()) as batches:
            while self.step < options.all_steps:
                self._recent.append(self._learn(batches))
                self.step += 1
                now = time.perf_counter()
                self.seconds = before + now - started
                if self.step % _LOGGED_EVERY == 0 or self.step in (options.steps, options.all_steps):
                    self._tell()
                if now - kept > 60 * _MINUTES_BETWEEN_CHECKPOINTS:
                    self._keep()
                    kept = now
        self._keep()
        return self._save_weights()

    # -- a step ----------------------------------------------------------------------------------------

    def _learn(self, batches: Iterator[PictureBatch]) -> dict[str, float]:
        """Take one step and return what was told of it."""
        rate = learning_rate_at(self.step, self.options)
        for optimiser in self._optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate * (_MUON_RATE if isinstance(optimiser, torch.optim.Muon) else 1)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.options.precision == "bfloat16"):
            if self.step < self.options.steps:
                batch = next(batches).to(self.device)
                told = self.questions(self._embeddings(batch), batch, self._random)
            else:
                told = self._prompted(batches)
        if not told:  # by the decoder alone, where no picture shows a part
            return {}
        loss = sum((value for name, value in told.items() if not name.endswith("_iou")), torch.zeros(()))
        if not torch.isfinite(loss):
            message = (
                f"{self.folder}: the loss is {float(loss.detach())} at step {self.step + 1}: it has diverged. "
                f"Begin another with a lower rate: --learning-rate {self.options.learning_rate / 2:g}"
            )
            raise FitDiverged(message)
        self._module.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self._module.parameters(), _CLIPPED_NORM)
        for optimiser in self._optimisers:
            optimiser.step()
        return {"loss": float(loss.detach()), **{name: float(value.detach()) for name, value in told.items()}}

    def _prompted(self, batches: Iterator[PictureBatch]) -> dict[str, Tensor]:
        """Prompt the decoder on the step's batch, embedded when it is seen for the first time since the start."""
        number = self.options.batch_at(self.step)
        if number not in self._encoded:
            batch = next(batches).each_alone().to(self.device)
            with torch.no_grad():
                embeddings = self._embeddings(batch)[:, 0].half()
            self._encoded[number] = _Encoded(
                batch=replace(batch, images=batch.images[:, :0].clone()), embeddings=embeddings
            )
        encoded = self._encoded[number]
        masks = self.options.decoder_masks // (_FEWER if self.options.is_fine(number) else 1)
        return self.questions.prompted(encoded.embeddings.float(), encoded.batch, masks, self._random)

    def _embeddings(self, batch: PictureBatch) -> Tensor:
        """Return the embeddings of a batch's pictures, (B, L, C, h, w)."""
        fine = self.options.is_fine(self.options.batch_at(self.step))
        input_px = self.model.default_px * (2 if fine else 1)
        pictures = batch.images.flatten(0, 1)[:, None]
        prepared = prepare(pictures, input_px=input_px, pixel_normalisation="sam")
        embeddings: Tensor = embedded(self.parts["image_encoder"], prepared).unflatten(0, batch.images.shape[:2])
        return embeddings

    def _batches(self) -> Generator[PictureBatch]:
        """Yield the batches of the current step and those after it, drawn in a process of their own."""
        options = self.options
        pictures = _StepPictures(options, size=self.model.default_px, first=self.step)
        # Of the process that draws: the others are for training.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        workers = 1 if self.device.type == "cpu" else max(1, (os.cpu_count() or 2) - 2)
        loader = DataLoader(
            pictures, batch_size=None, num_workers=workers, prefetch_factor=4, multiprocessing_context="spawn"
        )
        yield from loader

    # -- what is kept ----------------------------------------------------------------------------------

    def _tell(self) -> None:
        told = {
            name: [one[name] for one in self._recent if name in one] for name in dict.fromkeys(chain(*self._recent))
        }
        means = {name: round(sum(values) / len(values), 4) for name, values in told.items()}
        line = {"step": self.step, "seconds": round(self.seconds, 1), **means}
        self.log.append(line)
        self._recent = []
        LocalPlace(self.folder / "log.jsonl").publish("".join(f"{json.dumps(one)}\n" for one in self.log).encode())
        _log.info("%s", json.dumps(line))

    @property
    def _decided_by(self) -> dict[str, Any]:
        """All that decides the weights, by name."""
        options = self.options.to_json()
        objective = options.pop("objective")
        return {"model": self.model.name, "device": self.device.type, **options, **objective}

    def _keep(self) -> None:
        """Replace the checkpoint, whole or not at all."""
        state = {
            "options": self._decided_by,
            "step": self.step,
            "seconds": self.seconds,
            "log": self.log,
            "recent": self._recent,
            "module": self._module.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self._optimisers],
            "random": self._random.get_state(),
        }
        written = io.BytesIO()
        torch.save(state, written)
        self._checkpoint.publish(written.getvalue())

    def _go_on(self) -> None:
        try:
            state = torch.load(self._checkpoint, map_location=self.device, weights_only=True)
            self._check_options(state["options"])
            self._module.load_state_dict(state["module"])
            for optimiser, kept in zip(self._optimisers, state["optimisers"], strict=True):
                optimiser.load_state_dict(kept)
            self._random.set_state(state["random"].cpu())
            self.step, self.seconds, self.log = state["step"], state["seconds"], state["log"]
            self._recent = state["recent"]
        except (RuntimeError, EOFError, pickle.UnpicklingError, KeyError, TypeError, ValueError) as error:
            message = (
                f"{self._checkpoint}: cannot be read: {str(error).splitlines()[0] if str(error) else 'empty'}. It is "
                f"damaged, or of another samkit. Move it away, and the same command trains from the beginning."
            )
            raise UsageError(message) from error

    def _check_options(self, there: dict[str, Any]) -> None:
        asked = self._decided_by
        other = [f"{name} {there.get(name)}, not {asked[name]}" for name in asked if there.get(name) != asked[name]]
        if other:
            message = (
                f"{self.folder} holds a training with other options: {'; '.join(other)}. "
                f"Name another folder, or give the same options to go on."
            )
            raise UsageError(message)

    def _save_weights(self) -> Path:
        """Write the weights as a SAM checkpoint in float16."""
        tensors: dict[str, Tensor] = {
            name: tensor.detach().half().cpu().contiguous() for name, tensor in self.parts.state_dict().items()
        }
        file = self.folder / f"{self.model.name}.safetensors"
        LocalPlace(file).publish(save(tensors))
        return file


class _StepPictures(Pictures):
    """One batch a step."""

    def __init__(self, options: TrainingOptions, *, size: int, first: int) -> None:
        super().__init__(options.seed, options.batch_size, subjects=options.subjects, size=size, first=first)
        self._options = options

    def batch(self, number: int, scenes: int | None = None) -> PictureBatch:
        """Return the pictures of a step."""
        number = self._options.batch_at(number)
        fewer = max(1, self.batch_size // _FEWER) if self._options.is_fine(number) else None
        return super().batch(number, scenes or fewer)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Encoded:
    """What the decoder sees of a batch."""

    #: Scenes of one subject each, without their images.
    batch: PictureBatch
    #: (B, C, h, w) float16.
    embeddings: Tensor


def embedded(encoder: nn.Module, prepared_BCHW: Tensor) -> Tensor:
    """Return the embeddings of pictures of any size, (B, C, h, w), by an encoder that is being trained.

    Its positions are brought to their grid as `SamModel.resized_positions` brings those of a checkpoint: absolute ones
    here, relative ones by the package's own interpolation, which is the same.
    """
    tokens = encoder.get_submodule("patch_embed")(prepared_BCHW)  # B, h, w, width
    positions: Tensor = encoder.get_parameter("pos_embed")
    if positions.shape[1:3] != tokens.shape[1:3]:
        image = positions.permute(0, 3, 1, 2)
        image = nn.functional.interpolate(image, tokens.shape[1:3], mode="bilinear", align_corners=False)
        positions = image.permute(0, 2, 3, 1)
    tokens = tokens + positions
    for block in encoder.get_submodule("blocks").children():
        tokens = block(tokens)
    embeddings: Tensor = encoder.get_submodule("neck")(tokens.permute(0, 3, 1, 2))
    return embeddings


def learning_rate_at(step: int, options: TrainingOptions) -> float:
    """Return the rate of a step (from 0): half a cosine down to 0, and a linear rise into it; again for the decoder."""
    together = step < options.steps
    step, steps = (step, options.steps) if together else (step - options.steps, options.decoder_steps)
    rise = min(1.0, (step + 1) / min(_MOST_WARMUP_STEPS, max(1, steps * _WARMUP_SHARE)))
    return options.learning_rate * rise * 0.5 * (1 + math.cos(math.pi * step / steps))


def _optimisers(module: nn.Module, options: TrainingOptions) -> tuple[torch.optim.Optimizer, ...]:
    """Return Muon for the matrices of the transformers, and AdamW for all else.

    Source: Muon, Jordan et al. (github.com/KellerJordan/Muon), in torch, with steps as long as AdamW's would be (Liu
    et al., arXiv 2502.16982) before `_MUON_RATE`. Tries of both are in the card.

    Raises
    ------
    UsageError
        With a torch that has no Muon: all else of samkit works with older ones.
    """
    if not hasattr(torch.optim, "Muon"):
        message = f"torch {torch.__version__} has no Muon, which came with 2.9. To train: pip install 'torch>=2.9'"
        raise UsageError(message)
    matrices = [
        layer.weight
        for name, part in module.named_modules()
        if name.endswith(_TRANSFORMERS)
        for layer in part.modules()
        if isinstance(layer, nn.Linear)
    ]
    others = {id(parameter): parameter for parameter in module.parameters()}
    for matrix in matrices:
        del others[id(matrix)]
    # Spared from decay: biases, norms, tokens and positions.
    decayed = [layer.weight for layer in module.modules() if isinstance(layer, _WITH_MATRICES)]
    decayed = [weight for weight in decayed if others.pop(id(weight), None) is not None]
    return (
        torch.optim.Muon(
            matrices, lr=options.learning_rate, weight_decay=options.weight_decay, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": options.weight_decay},
                {"params": [*others.values()], "weight_decay": 0.0},
            ],
            lr=options.learning_rate,
            betas=_BETAS,
        ),
    )


def main() -> int:
    """Run the command."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    keep_freed_memory()
    training = None
    try:
        folder, options, device = _asked()
        training = NanoTraining(folder, options, find_device(device))
        _log.info("%s", training.run())
    except SamkitError as error:
        _log.error("%s", error)
        return error.exit_code
    except KeyboardInterrupt:
        kept = training is not None and training.has_checkpoint
        goes_on = "goes on from the last checkpoint" if kept else "begins again: there is no checkpoint yet"
        _log.error("stopped; the same command %s (made every %g minutes)", goes_on, _MINUTES_BETWEEN_CHECKPOINTS)
        return _STOPPED
    return 0


def _asked() -> tuple[Path, TrainingOptions, str]:
    parser = argparse.ArgumentParser(
        prog="python -m samkit.stages.encoders.train_nano", description="Train the embedded encoder on random pictures."
    )
    parser.add_argument("folder", type=Path, help="of the training; what is there is gone on with")
    standard = TrainingOptions()
    parser.add_argument("--steps", type=int, default=standard.steps)
    parser.add_argument("--decoder-steps", type=int, default=standard.decoder_steps, help="of the decoder alone")
    parser.add_argument(
        "--decoder-batches", type=int, default=standard.decoder_batches, help="that these take turns with"
    )
    parser.add_argument("--decoder-masks", type=int, default=standard.decoder_masks, help="prompted in each of these")
    parser.add_argument("--batch-size", type=int, default=standard.batch_size, help="scenes a step")
    parser.add_argument("--subjects", type=int, default=standard.subjects, help="of each scene")
    parser.add_argument(
        "--fine-every", type=int, default=standard.fine_every, help="one step in so many at twice the size; 0: none"
    )
    parser.add_argument("--learning-rate", type=float, default=standard.learning_rate)
    parser.add_argument("--seed", type=int, default=standard.seed)
    parser.add_argument("--precision", choices=_PRECISIONS, default=standard.precision)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, mps")
    asked = {
        "prompted": "weight of the masks that clicks and boxes mean",
        "dense": "weight of what is asked of every cell",
        "picture": "weight of how bright every cell is",
        "likeness": "weight of the comparison of two subjects' parts",
        "solved": "weight of heads that are solved on one subject and asked of another",
        "masks": "prompted a step",
    }
    for name, weight in standard.objective.to_json().items():
        parser.add_argument(f"--{name}", type=type(weight), default=weight, help=asked[name])
    given = vars(parser.parse_args())
    folder, device = given.pop("folder"), given.pop("device")
    objective = ObjectiveWeights(**{name: given.pop(name) for name in asked})
    return folder, TrainingOptions(**given, objective=objective), device


if __name__ == "__main__":
    sys.exit(main())
