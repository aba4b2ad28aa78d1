"""What a head is, what it is built from, and how one is kept and loaded.

Shapes: B slices, C channels, h w cells of the embedding, K classes, background first.
"""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from importlib.metadata import entry_points
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from ..store.errors import DamagedStore, UsageError
from ..store.places import Place, place_of
from ..store.runs import Run, check_name
from .recipes import ContrastOptions, FitOptions

# Heads answer on a grid four times finer than the embedding: two up-convolutions of stride 2, as in SAM.
LOGIT_CELLS_PER_FEATURE_CELL = 4
# The encoder's mask decoder, kept beside its embeddings: heads can then be trained without the checkpoint.
MASK_DECODER_FILE = "decoder.safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskDecoderWeights:
    """An encoder's own mask decoder, as tensors: what prompt-free heads start from.

    Encoders provide it (`stages.encoders`), training hands it in; a head never sees the encoder.
    """

    #: SAM's names without the ``mask_decoder.`` prefix: ``transformer.*``, ``mask_tokens.weight``, ...
    decoder: Mapping[str, Tensor]
    #: (2, C / 2), the Gaussian matrix of SAM's position encoding.
    position_matrix: Tensor
    #: (C,), what SAM adds to the embedding when there is no mask prompt.
    no_mask: Tensor
    #: SAM's names without the ``prompt_encoder.`` prefix; empty where the checkpoint has not all of it, or rows were
    #: embedded before it was kept.
    prompt_encoder: Mapping[str, Tensor] = field(default_factory=dict)
    #: False where the numbers come from a seed, not from training.
    trained: bool

    @property
    def mlp_width(self) -> int:
        """Of the transformer's MLP."""
        return self.decoder["transformer.layers.0.mlp.lin1.weight"].shape[0]

    def to_bytes(self) -> bytes:
        """Return the weights as one safetensors file."""
        tensors = {
            # Copies: the file refuses tensors that share memory, as those of prompts may with the two below.
            f"{part}.{name}": tensor.detach().cpu().contiguous().clone()
            for part, named in (("decoder", self.decoder), ("prompt_encoder", self.prompt_encoder))
            for name, tensor in named.items()
        }
        tensors["position_matrix"] = self.position_matrix.detach().cpu().contiguous()
        tensors["no_mask"] = self.no_mask.detach().cpu().contiguous()
        return save_safetensors(tensors, metadata={"trained": json.dumps(self.trained)})

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read what `to_bytes` wrote."""
        tensors = load_safetensors(data)
        header_length = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + header_length])["__metadata__"]

        def part(prefix: str) -> dict[str, Tensor]:
            return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

        return cls(
            decoder=part("decoder."),
            prompt_encoder=part("prompt_encoder."),
            position_matrix=tensors["position_matrix"],
            no_mask=tensors["no_mask"],
            trained=json.loads(metadata["trained"]),
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CnnWeights:
    """Weights that somebody else trained, for the CNN of a head that has one."""

    #: What runs keep of them: ``imagenet`` and the first digits of the file's digest.
    name: str
    #: By torchvision's names.
    tensors: Mapping[str, Tensor] = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PretrainedWeights:
    """What a head begins from that was learned on this dataset without labels."""

    #: Of the pretraining, which runs keep.
    name: str
    #: By the names of the part of the head that they are of; empty where only the name is known yet.
    tensors: Mapping[str, Tensor] = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LiveEncoderWeights:
    """An encoder as a module that can go on to be trained: what heads begin from that do not keep it frozen.

    Encoders provide it (`stages.encoders`), training hands it in.
    """

    #: Arguments of `live_encoder.LiveEncoder`: its architecture, and how slices become its squares.
    config: Mapping[str, Any]
    #: By the names of the `segment-anything` package's image encoder.
    tensors: Mapping[str, Tensor] = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadContext:
    """What a head may know when it is built."""

    #: Of what the head sees: (C, h, w) of an embedding, or (channels, rows, columns) of a patch of a slice.
    input_shape: tuple[int, int, int]
    #: Classes with background.
    class_count: int
    mask_decoder: MaskDecoderWeights | None = field(default=None, repr=False)
    cnn_weights: CnnWeights | None = field(default=None, repr=False)
    pretrained: PretrainedWeights | None = field(default=None, repr=False)
    live_encoder: LiveEncoderWeights | None = field(default=None, repr=False)
    #: What was asked for among the head's own `Head.options`.
    options: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0


class Sees(Enum):
    """What a head is given."""

    FEATURES = "features"
    #: The slices themselves: a baseline without an encoder.
    SLICES = "slices"
    #: Both, the slices in the encoder's frame: `FeaturesAndSlices`.
    FEATURES_AND_SLICES = "features and slices"
    #: The slices in the encoder's own square, not a number where the square has no slice: an encoder of the head's own
    #: runs on them. (B, 1 or 3, S, S) in [0, 1].
    SQUARES = "slices in the encoder's square"
    #: Features, and the boxes of the reference: a bound, not a method. `FeaturesAndBoxes`.
    FEATURES_AND_BOXES = "features and boxes of the reference"

    @property
    def features(self) -> bool:
        """Whether there are features in it, so that rows have to be embedded."""
        return self not in (Sees.SLICES, Sees.SQUARES)

    @property
    def recipe(self) -> bool:
        """Whether an encoder's recipe decides what it is."""
        return self is not Sees.SLICES


SLICE_PX_PER_FEATURE_CELL = 16
"""How finely a head that sees both sees the slices: SAM's patches, and the stride of a ResNet's third stage."""


class FeaturesAndSlices(NamedTuple):
    """What a head that sees both is given."""

    features: Tensor
    """(B, C, h, w), any float kind."""
    slices: Tensor
    """(B, 1 or 3, 16 h, 16 w) in [0, 1], in the encoder's frame, padded with 0."""

    def to(self, device: torch.device) -> FeaturesAndSlices:
        """Return both on a device."""
        return FeaturesAndSlices(self.features.to(device), self.slices.to(device))

    def rows(self, which: slice) -> FeaturesAndSlices:
        """Return some rows of both."""
        return FeaturesAndSlices(self.features[which], self.slices[which])


class FeaturesAndBoxes(NamedTuple):
    """What a head that is prompted is given."""

    features: Tensor
    """(B, C, h, w), any float kind."""
    boxes: Tensor
    """(B, K - 1, 4), a box for each class but background: first column and row, last column and row, the middles of
    their pixels as shares of the encoder's square; not a number where the slice does not show the class."""

    def to(self, device: torch.device) -> FeaturesAndBoxes:
        """Return both on a device."""
        return FeaturesAndBoxes(self.features.to(device), self.boxes.to(device))


Seen = Tensor | FeaturesAndSlices | FeaturesAndBoxes
"""What is given to a head."""


class Head(nn.Module):
    """A module from features to class logits, or, as a baseline, from slices.

    Contract: ``head(features)`` takes (B, C, h, w) of any float kind and returns float32 logits
    (B, K, 4 h, 4 w); where it ``sees`` slices, it takes (B, channels, rows, columns) of any size and returns
    (B, K, rows, columns); where it sees both it takes `FeaturesAndSlices`; where it sees the encoder's square, that
    (B, 1 or 3, S, S), and returns (B, K, S / 4, S / 4). A slice's logits do not depend on its batch
    mates in eval mode; ``config`` and the state dict rebuild the head without an encoder; everything trainable is a
    parameter.
    """

    #: The name people type.
    name: ClassVar[str]
    sees: ClassVar[Sees] = Sees.FEATURES
    #: Whether it starts from the encoder's own mask decoder: without one, training would begin from random numbers.
    needs_mask_decoder: ClassVar[bool] = False
    #: Whether it has a CNN that begins from weights of somebody else's, where there are any.
    takes_cnn_weights: ClassVar[bool] = False
    #: How it learns from slices without labels before it is fitted, where it does.
    contrast: ClassVar[ContrastOptions | None] = None
    #: Whether it is scored as it is built: no subject is drawn for it, and nothing is fitted.
    zero_shot: ClassVar[bool] = False
    #: What can be chosen of it, the default first: ``gate`` and the like.
    options: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    #: How it is fitted unless something else is asked for: to all drawn subjects. On development subjects of ACDC
    #: (benchmarks/few_shot.py) a fifth one to stop by cost `hybrid`, `linear` and `autosam` 0.02 to 0.03 of Dice, and
    #: stopped none of them, because the rate falls to nothing anyhow. Heads that name their own were tuned there.
    own_fit: ClassVar[FitOptions] = FitOptions(validate_every=None)

    @classmethod
    @abstractmethod
    def build(cls, context: HeadContext) -> Self:
        """Build a fresh head; equal contexts give equal heads."""

    @property
    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Arguments of the class, as JSON, that rebuild the module before its weights are loaded."""

    @abstractmethod
    def forward(self, seen: Any, /) -> Tensor:  # noqa: ANN401 - a `Seen` of the kind that the class ``sees``
        """Return the logits."""

    @property
    def told(self) -> dict[str, float]:
        """What a step's record should say of the head beside its losses."""
        return {}

    @property
    def device(self) -> torch.device:
        """Where its numbers are."""
        return next(chain(self.parameters(), self.buffers())).device

    def parameter_count(self) -> int:
        """Return the number of trainable numbers."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)


class SolvedHead(Head):
    """A head that is computed from the draw in one pass, not fitted step by step; its numbers are buffers."""

    @abstractmethod
    def solve(self, rows: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Compute the head.

        Parameters
        ----------
        rows
            Every row of the draw once: features (B, C, h, w) of any float kind, labels (B, 4 h, 4 w) as class indices
            with `losses.IGNORED`. A class that no row shows is never answered.
        """


def check_options(head: type[Head], asked: Mapping[str, str]) -> dict[str, str]:
    """Return every option of a head, those that were not asked for at their defaults.

    Raises
    ------
    UsageError
        For an option that the head does not have, or a value that the option does not have.
    """
    for name, value in asked.items():
        if name not in head.options:
            own = f"it has {', '.join(head.options)}" if head.options else "it has none"
            message = f"{name}={value}: {head.name} has no option of that name; {own}."
            raise UsageError(message)
        if value not in head.options[name]:
            message = f"{name}={value}: {head.name} knows {', '.join(head.options[name])}."
            raise UsageError(message)
    return {name: asked.get(name, values[0]) for name, values in head.options.items()}


def parse_head(text: str) -> tuple[str, dict[str, str]]:
    """Return the name and the options of a head as they are typed together.

    >>> parse_head("ladder:gate=fixed:faithful=yes")
    ('ladder', {'gate': 'fixed', 'faithful': 'yes'})

    Raises
    ------
    UsageError
        For an option without a value.
    """
    name, *options = text.split(":")
    for option in options:
        if option.count("=") != 1:
            message = f"{text!r}: give options as {name}:OPTION=VALUE, for example ladder:gate=fixed."
            raise UsageError(message)
    return name, dict(option.split("=") for option in options)


def head_words(name: str, config: Mapping[str, Any]) -> str:
    """Return a head as it is typed with the options that differ from their defaults, from its config."""
    options = find_head(name).options
    differing = [f":{one}={config[one]}" for one, values in options.items() if config.get(one, values[0]) != values[0]]
    return name + "".join(differing)


_REGISTERED: dict[str, type[Head]] = {}


def register_head(head: type[Head]) -> type[Head]:
    """Let a head be found by its name in this process; as a decorator it returns the class.

    For the command line, and for the processes of `samkit experiment`, a package of one's own names it in its
    pyproject.toml: ``[project.entry-points."samkit.heads"]``, ``mine = "my_package:MyHead"``.

    Raises
    ------
    UsageError
        When the name is taken by another class.
    """
    taken = _REGISTERED.get(head.name)
    installed = head.name in entry_points(group="samkit.heads").names
    if installed or (taken is not None and taken.__qualname__ != head.__qualname__):
        message = f"the name {head.name!r} is taken by another head. Give yours another: name = 'my-{head.name}'"
        raise UsageError(message)
    _REGISTERED[head.name] = head
    return head


def head_names() -> list[str]:
    """Return the names of all installed heads, and of those registered in this process."""
    return sorted({*entry_points(group="samkit.heads").names, *_REGISTERED})


def find_head(name: str) -> type[Head]:
    """Return the class of a head.

    Raises
    ------
    UsageError
        For an unknown name, with the nearest one.
    """
    check_name("head", name, head_names())
    if name in _REGISTERED:
        return _REGISTERED[name]
    (entry,) = entry_points(group="samkit.heads", name=name)
    found: type[Head] = entry.load()
    return found


def load_head(run_directory: str | Path | Place) -> Head:
    """Load the trained head of a run, on the CPU, in eval mode.

    Parameters
    ----------
    run_directory
        A folder below ``WORKSPACE/runs``, its path or URL.

    Returns
    -------
    Head
        ``head(features)`` takes (B, C, h, w) and returns logits (B, classes, 4 h, 4 w).

    Raises
    ------
    DamagedStore
        When the folder is no finished run or its weights do not fit.
    """
    folder = place_of(run_directory)
    if not (folder / "run.json").exists():
        message = f"{folder} is not a finished run (no run.json in it). `samkit status` lists the runs there are."
        raise DamagedStore(message)
    run = Run(folder)
    head = find_head(run.settings.head)(**run.settings.head_config)
    try:
        data = (folder / "head.safetensors").read_bytes()
        if hashlib.sha256(data).hexdigest() != run.record["head_sha256"]:
            message = f"{folder / 'head.safetensors'}: not the weights that were kept there. Train the run again."
            raise DamagedStore(message)
        head.load_state_dict(load_safetensors(data), strict=True)
    except (OSError, KeyError, RuntimeError, SafetensorError) as error:
        message = f"{folder / 'head.safetensors'}: missing, torn or of another head ({error}). Train the run again."
        raise DamagedStore(message) from error
    return head.eval()


def head_bytes(head: Head) -> bytes:
    """Return the head's weights as one safetensors file."""
    return save_safetensors({name: tensor.detach().cpu().contiguous() for name, tensor in head.state_dict().items()})


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Make torch's random numbers follow ``seed`` inside the block; outside they go on as before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
