"""What an encoder is, and how one is found by its name.

Shapes: B slices, H W pixels, C channels, h w cells of the embedding.
"""

from __future__ import annotations

import warnings
from importlib.metadata import entry_points
from pathlib import Path
from typing import Protocol

from torch import Tensor

from ...heads.base import LiveEncoderWeights, MaskDecoderWeights
from ...store.errors import SamkitWarning, UsageError, WeightsError
from ...store.keys import Recipe
from ...store.runs import check_name
from .catalogue import SEEDED
from .digests import file_sha256
from .shelf import WeightsShelf
from .transformers_models import TransformersModel


class Encoder(Protocol):
    """Turns slices into embeddings.

    Contract: the same slice gives the same embedding whatever else is in the batch (to rounding);
    equal slices in equal batches give bitwise equal embeddings; gradients are off; results are finite,
    float32, on the encoder's device; ``recipe`` says everything that changes the numbers.
    """

    @property
    def recipe(self) -> Recipe:
        """Everything that changes the numbers."""

    @property
    def embedding_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of one slice's embedding."""

    @property
    def trained(self) -> bool:
        """False where the weights come from a seed: good for trying the machinery, not for results."""

    @property
    def mask_decoder(self) -> MaskDecoderWeights | None:
        """The encoder's own mask decoder, for heads that start from one."""

    @property
    def live(self) -> LiveEncoderWeights | None:
        """The encoder as a module to go on training, for heads that do; None where only its embeddings can be had."""

    @property
    def kernel_paths(self) -> tuple[str, ...]:
        """By which implementations it can compute, the fastest first: they agree within the recipe's tolerance."""

    def __call__(self, images: Tensor) -> Tensor:
        """Return the embeddings, (B, C, h, w), of (B, 1 or 3, H, W) images in [0, 1]."""

    def prepare(self, images: Tensor) -> Tensor:
        """Return (B, 3, S, S): the first half of a call, which may be done slice by slice."""

    def encode(self, prepared: Tensor, kernel_path: str | None = None) -> Tensor:
        """Return the embeddings of prepared slices: the second half of a call; by None, the first kernel path."""


class EncoderModel(Protocol):
    """An encoder's architecture by name: what the entry points of ``samkit.encoders`` hold."""

    @property
    def name(self) -> str:
        """The name people type."""

    @property
    def default_px(self) -> int:
        """Input size where none is asked for."""

    @property
    def block_count(self) -> int | None:
        """How many transformer blocks it has whose input can be tapped; None where only its end can be had."""

    @property
    def own_weights(self) -> Path | None:
        """Weights that are installed with the encoder, and meant by its name; None where somebody has to give them."""

    @property
    def needs_weights(self) -> bool:
        """Whether there is a checkpoint to load; False for one that computes features without, by a rule."""

    def load(
        self,
        weights: Path | None,
        *,
        size: int | None = None,
        device: str = "cpu",
        precision: str = "float32",
        storage_precision: str = "float16",
        pixel_normalisation: str | None = None,
        tap: str | None = None,
    ) -> Encoder:
        """Build the encoder, from a checkpoint or, with None, from a seed, if it needs any.

        None for pixels is its own rule, and None for the tap is what it ends with.
        """


_REGISTERED: dict[str, EncoderModel] = {}


def register_encoder(model: EncoderModel) -> EncoderModel:
    """Let an encoder be found by its name in this process.

    For the command line and its workers a package of one's own names it in its pyproject.toml:
    ``[project.entry-points."samkit.encoders"]``, ``mine = "my_package:MODEL"``.

    Raises
    ------
    UsageError
        When the name is taken by another one.
    """
    installed = model.name in entry_points(group="samkit.encoders").names
    if installed or _REGISTERED.get(model.name, model) is not model:
        message = f"the name {model.name!r} is taken by another encoder. Give yours another: my-{model.name}"
        raise UsageError(message)
    _REGISTERED[model.name] = model
    return model


def encoder_names() -> list[str]:
    """Return the names of all installed encoders, and of those registered in this process."""
    return sorted({*entry_points(group="samkit.encoders").names, *_REGISTERED})


def find_encoder(name: str) -> EncoderModel:
    """Return an encoder's model.

    Parameters
    ----------
    name
        The name of an installed encoder; ``hf:FOLDER`` or ``hf:ORGANISATION/NAME`` for a model that the `transformers`
        package runs; or ``hf-NAME``, which is what a recipe keeps of that.

    Raises
    ------
    UsageError
        For an unknown name, with the nearest one.
    """
    if TransformersModel.is_named(name):
        return TransformersModel.named(name)
    check_name("encoder", name, [*encoder_names(), "hf:FOLDER"])
    if name in _REGISTERED:
        return _REGISTERED[name]
    (entry,) = entry_points(group="samkit.encoders", name=name)
    found: EncoderModel = entry.load()
    return found


def load_recipe(recipe: Recipe, weights: Path | None, device: str) -> Encoder:
    """Load the encoder that a recipe describes.

    Raises
    ------
    WeightsError
        When the weights are not those of the recipe; both digests are named.
    """
    encoder = find_encoder(recipe.encoder).load(
        weights,
        size=recipe.input_px,
        device=device,
        precision=recipe.compute_precision,
        storage_precision=recipe.storage_precision,
        pixel_normalisation=recipe.pixel_normalisation,
        tap=recipe.tap,
    )
    if encoder.recipe != recipe:
        message = (
            f"the weights at hand are not those of recipe {recipe.id}: "
            f"{'; '.join(recipe.differences(encoder.recipe))}. Give the file it was made with: --weights FILE, "
            f"or put it on the shelf: samkit weights add FILE"
        )
        raise WeightsError(message)
    return encoder


def weights_named_by(encoder_name: str) -> Path | None:
    """Return the weights that an encoder's name points to by itself, as ``hf:FOLDER`` does; None for other names.

    A model of the Hugging Face hub that is not on this machine is fetched.

    Raises
    ------
    WeightsError
        When they are not there and cannot be fetched.
    """
    if not TransformersModel.is_named(encoder_name):
        return None
    model = TransformersModel.named(encoder_name)
    return None if model.source is None else model.folder()


def needs_weights(encoder_name: str) -> bool:
    """Return whether an encoder of that name, as it is typed or a recipe keeps it, has a checkpoint to load."""
    return TransformersModel.is_named(encoder_name) or find_encoder(encoder_name).needs_weights


def weights_at_hand(recipe: Recipe) -> Path | None:
    """Return the weights with a recipe's digest that this machine has: what samkit comes with, or the shelf's."""
    own = None if TransformersModel.is_named(recipe.encoder) else find_encoder(recipe.encoder).own_weights
    if own is not None and file_sha256(own) == recipe.weights_sha256:
        return own
    kept = WeightsShelf().find(sha256=recipe.weights_sha256)
    return None if kept is None else kept.path


def load_encoder(
    name: str,
    weights: str | Path | None = None,
    size: int | None = None,
    device: str = "cpu",
    precision: str = "float32",
    *,
    pixel_normalisation: str | None = None,
    tap: str | None = None,
) -> Encoder:
    """Load a frozen encoder.

    Parameters
    ----------
    name
        ``nano``, ``sam_vit_b``, ``sam_vit_l``, ``sam_vit_h``, one that another package adds; or, with the extra
        ``samkit[transformers]``, ``hf:FOLDER`` and ``hf:ORGANISATION/NAME`` for DINOv2, SAM 2.1 and others.
    weights
        A checkpoint file; None for the encoder's own, as ``hf:`` has. ``"seeded"``, or None where it has none, gives
        numbers from a seed: for trying, not for results.
    size
        Side of the input square in pixels, a multiple of the patch; None for the encoder's own (1024 for SAM).
    device
        ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
    precision
        ``float32``, ``bfloat16`` or ``auto`` (bfloat16 where the device computes in it).
    pixel_normalisation
        A rule of `pixels.NAMED_RULES`: ``sam``; ``sam-exact`` for the package's rounding to bytes; ``sam-lst``,
        ``autosam`` and ``medsam`` for what these papers' code did. None for the encoder's own;
        checkpoints of MedSAM want ``medsam``.
    tap
        Which layer's output: ``block:9`` for the tokens that enter block 9 of a SAM encoder, counted from 0. None for
        what the encoder ends with.

    Returns
    -------
    Encoder
        ``encoder(images)`` takes (B, 1 or 3, H, W) in [0, 1] and returns (B, C, h, w), float32.

    Raises
    ------
    UsageError
        Unknown name, size, precision or tap.
    WeightsError
        A file that is not this model's checkpoint.
    DeviceError
        A device that is not there.
    """
    model = find_encoder(name)
    if weights is None and model.own_weights is None and model.needs_weights and not TransformersModel.is_named(name):
        told = f"{name}: no weights given, its numbers come from a seed: for trying, not for results"
        warnings.warn(told, SamkitWarning, stacklevel=2)
    if weights == SEEDED and TransformersModel.is_named(name):
        message = f"{name} has no seed, its numbers are those of its folder: leave {SEEDED!r} out."
        raise UsageError(message)
    file = model.own_weights if weights is None else None if weights == SEEDED else Path(weights)
    return model.load(
        file,
        size=size,
        device=device,
        precision=precision,
        pixel_normalisation=pixel_normalisation,
        tap=tap,
    )
