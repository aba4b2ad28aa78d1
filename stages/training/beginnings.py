"""What heads begin from, as they ask for it in `heads.base.HeadContext`."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from safetensors.torch import load as load_safetensors

from ...heads.base import (
    MASK_DECODER_FILE,
    CnnWeights,
    LiveEncoderWeights,
    MaskDecoderWeights,
    PretrainedWeights,
)
from ...store.embeddings import Embeddings
from ...store.errors import UsageError, WeightsError
from ...store.keys import NECK, Recipe
from ...store.pretrained import WEIGHTS, PretrainingSettings
from ...store.workspace import Workspace
from ..encoders.base import load_recipe, needs_weights, weights_at_hand
from ..encoders.checkpoints import read_resnet
from ..encoders.digests import file_sha256

_DIGITS_OF_DIGEST = 8


def mask_decoder_of(embeddings: Embeddings) -> MaskDecoderWeights | None:
    """Return the encoder's own mask decoder, which `embed` kept beside the recipe, or None."""
    data = embeddings.attachment(MASK_DECODER_FILE)
    return None if data is None else MaskDecoderWeights.from_bytes(data)


def read_cnn_weights(file: Path) -> CnnWeights:
    """Read a torchvision checkpoint of a CNN, named by its digest.

    Raises
    ------
    WeightsError
        For a file that cannot be read as one.
    """
    tensors = read_resnet(file)
    return CnnWeights(name=f"imagenet {file_sha256(file)[:_DIGITS_OF_DIGEST]}", tensors=tensors)


def read_pretrained(workspace: Workspace, settings: PretrainingSettings) -> PretrainedWeights:
    """Return what a pretraining has learned, or its name alone while it is not there.

    Raises
    ------
    DamagedStore
        When its weights are not what was written.
    """
    there = workspace.pretrainings
    tensors = load_safetensors(there[settings.id].read(WEIGHTS)) if settings.id in there else {}
    return PretrainedWeights(name=settings.id, tensors=tensors)


def live_encoder_of(recipe: Recipe, *, trained: bool) -> LiveEncoderWeights:
    """Return the encoder of a recipe, whatever its tap, as a module that can be trained.

    Raises
    ------
    WeightsError
        When its weights are not on this machine.
    UsageError
        For an encoder of which only embeddings can be had.
    """
    # One encoder for all taps of it.
    return _live_encoder(recipe if recipe.block is None else replace(recipe, tap=NECK), trained=trained)


@lru_cache(maxsize=1)  # a grid plans many runs of one encoder
def _live_encoder(recipe: Recipe, *, trained: bool) -> LiveEncoderWeights:
    loads = trained and needs_weights(recipe.encoder)
    weights = weights_at_hand(recipe) if loads else None
    if loads and weights is None:
        message = (
            f"the weights of {recipe.encoder} with the digest {recipe.weights_sha256[:16]} are not on this machine, "
            f"and this head runs it. Put the file on the shelf: samkit weights add FILE"
        )
        raise WeightsError(message)
    live = load_recipe(recipe, weights, "cpu").live
    if live is None:
        message = (
            f"{recipe.folder_name}: of {recipe.encoder} only embeddings can be had, and this head runs the encoder. "
            f"Take one of samkit's own: nano, sam_vit_b, ..."
        )
        raise UsageError(message)
    return live
