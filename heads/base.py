"""What a head is, what it is built from, and how one is kept and loaded.

Shapes: B slices, C channels, h w cells of the embedding, K classes, background first.
"""

from __future__ import annotations

import hashlib
import json
import re
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import entry_points
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from ..store.errors import DamagedStore, UsageError
from ..store.places import Place, place_of
from ..store.runs import Run, check_name
from .recipes import ContrastOptions, FitOptions
from .seen import Sees

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

    #: Its architecture, as `live_encoder.SamShape` keeps it.
    shape: Mapping[str, Any]
    #: How slices become its squares, arguments of `live_encoder.LiveEncoder`; None where a paper's code makes a detour:
    #: its rows can be gone on from, the slices cannot.
    pixels: Mapping[str, Any] | None
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
    #: The encoder's block that features enter, where they are of an inner layer; None for what it ends with.
    block: int | None = None
    #: What was asked for among the head's own `Head.options`.
    options: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class PartParameters:
    """How many numbers a part of a head has."""

    trained: int
    frozen: int


class Head(nn.Module):
    """A module from features to class logits, or, as a baseline, from slices.

    Contract: ``head(features)`` takes (B, C, h, w) of any float kind and returns float32 logits
    (B, K, 4 h, 4 w); where it ``sees`` slices, it takes (B, channels, rows, columns) of any size and returns
    (B, K, rows, columns); where it sees both it takes `FeaturesAndSlices`; where it sees the encoder's square, that
    (B, 1 or 3, S, S), and returns (B, K, S / 4, S / 4); where it sees chunks it takes `Chunks`. A slice's logits do
    not depend on its batch mates in eval mode, or on those of its own chunk alone; ``config`` and the state dict
    rebuild the head without an encoder; everything trainable is a parameter.
    """

    #: The name people type.
    name: ClassVar[str]
    #: Of what it computes. Raise it when the same settings come to give other results, by the head or by what it is fed
    #: while fitting: runs from before stay what they are, and new ones do not stand as draws beside them. Rounding does
    #: not count: the next version of torch rounds otherwise too, and runs keep with which they were trained.
    revision: ClassVar[int] = 1
    sees: ClassVar[Sees] = Sees.FEATURES
    #: Whether it starts from the encoder's own mask decoder: without one, training would begin from random numbers.
    needs_mask_decoder: ClassVar[bool] = False
    #: Whether it has a CNN that begins from weights of somebody else's, where there are any.
    takes_cnn_weights: ClassVar[bool] = False
    #: How it learns from slices without labels before it is fitted, where it does.
    contrast: ClassVar[ContrastOptions | None] = None
    #: Whether it is scored as it is built: no subject is drawn for it, and nothing is fitted.
    zero_shot: ClassVar[bool] = False
    #: What can be chosen of it, the default first: ``gate`` and the like. N in a value is a whole number from 1 on.
    options: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    #: How it is fitted unless something else is asked for: to all drawn subjects. On development subjects of ACDC a
    #: fifth one to stop by cost `linear` and `autosam` 0.02 to 0.03 of Dice, and stopped none of them, because the rate
    #: falls to nothing anyhow. Heads that name their own were tuned there (benchmarks/few_shot.py).
    own_fit: ClassVar[FitOptions] = FitOptions(validate_every=None)

    @property
    def window_px(self) -> int | None:
        """Side of the largest square that it sees at once, of a head that sees slices; None where it does not say."""
        return None

    @classmethod
    def asks_reference(cls, config: Mapping[str, Any]) -> bool:  # noqa: ARG003 - for heads whose options decide
        """Return whether a head of that config, or of those options, is prompted from the reference."""
        return cls.sees is Sees.FEATURES_AND_BOXES

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

    def parameters_by_part(self) -> dict[str, PartParameters]:
        """Return how many numbers each part has, by the first part of their names."""
        parts: dict[str, PartParameters] = {}
        for name, parameter in self.named_parameters():
            part, count = name.split(".")[0], parameter.numel()
            before = parts.get(part, PartParameters(trained=0, frozen=0))
            parts[part] = (
                replace(before, trained=before.trained + count)
                if parameter.requires_grad
                else replace(before, frozen=before.frozen + count)
            )
        return parts


class FeatureHead(Head):
    """A head that is built from no more than the channels of the embedding and the classes.

    Parameters
    ----------
    channels
        Of the embedding, 256 for SAM.
    class_count
        Classes with background.
    """

    def __init__(self, *, channels: int, class_count: int) -> None:
        super().__init__()
        self.channels, self.class_count = channels, class_count

    @classmethod
    def build(cls, context: HeadContext) -> Self:
        """Build a fresh head; of the context only the embedding's channels, the classes and the seed count."""
        with seeded(context.seed):
            return cls(channels=context.input_shape[0], class_count=context.class_count)

    @property
    def config(self) -> dict[str, Any]:
        """Arguments that rebuild the module."""
        return {"channels": self.channels, "class_count": self.class_count}


class SolvedHead(FeatureHead):
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
        if not any(re.fullmatch(_pattern_of(known), value) for known in head.options[name]):
            message = f"{name}={value}: {head.name} knows {', '.join(head.options[name])}."
            raise UsageError(message)
    return {name: asked.get(name, values[0]) for name, values in head.options.items()}


def parse_head(text: str) -> tuple[str, dict[str, str]]:
    """Return the name and the options of a head as they are typed together.

    >>> parse_head("ladder:gate=fixed:faithful=yes")
    ('ladder', {'gate': 'fixed', 'faithful': 'yes'})
    >>> parse_head("med-sa:prompt=point:3:hyp=off")
    ('med-sa', {'prompt': 'point:3', 'hyp': 'off'})

    Raises
    ------
    UsageError
        For an option without a value.
    """
    name, *parts = text.split(":")
    options: list[str] = []
    for part in parts:
        if part.count("=") == 1:
            options.append(part)
        elif options and "=" not in part:  # a value may have a colon of its own
            options[-1] += f":{part}"
        else:
            message = f"{text!r}: give options as {name}:OPTION=VALUE, for example ladder:gate=fixed."
            raise UsageError(message)
    return name, dict(option.split("=") for option in options)


def _pattern_of(value: str) -> str:
    """Return the regular expression of an option's value, in which N is a whole number from 1."""
    return re.escape(value).replace("N", "[1-9][0-9]*")


def head_words(name: str, config: Mapping[str, Any]) -> str:
    """Return a head as it is typed with the options that differ from their defaults, from its config.

    Of one that is not installed here, its name.
    """
    if name not in head_names():  # of a package that is not here, or registered by a script
        return name
    options = find_head(name).options
    kept = {one: config.get(one.replace("-", "_"), values[0]) for one, values in options.items()}
    return name + "".join(f":{one}={kept[one]}" for one, values in options.items() if kept[one] != values[0])


def asks_reference(name: str, config: Mapping[str, Any]) -> bool:
    """Return whether a head is prompted from the reference: what it is scored by says where things are."""
    return name in head_names() and find_head(name).asks_reference(config)


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
    head_class = find_head(run.settings.head)
    try:
        head = head_class(**run.settings.head_config)
        data = (folder / "head.safetensors").read_bytes()
        if hashlib.sha256(data).hexdigest() != run.record["head_sha256"]:
            message = f"{folder / 'head.safetensors'}: not the weights that were kept there. Train the run again."
            raise DamagedStore(message)
        head.load_state_dict(load_safetensors(data), strict=True)
    except (OSError, KeyError, RuntimeError, TypeError, ValueError, SafetensorError) as error:
        message = f"{folder / 'head.safetensors'}: missing, torn or of another head ({error}). Train the run again."
        raise DamagedStore(message) from error
    return head.eval()


def head_bytes(head: Head) -> bytes:
    """Return the head's weights as one safetensors file."""
    return save_safetensors({name: tensor.detach().cpu().contiguous() for name, tensor in head.state_dict().items()})


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Make torch's random numbers follow ``seed`` inside the block; outside those of the CPU go on as before.

    Those of a GPU are left where the block ends: to keep them would open every GPU there is.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
