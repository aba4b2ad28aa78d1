"""An encoder that a package of the user's brings is embedded with as samkit's own are, from the command line.

The one here computes its features by a rule and has no checkpoint.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from examples.own_package import Shell, shell_with_package

import samkit as package

_MODULE = """
import torch
from torch.nn import functional as F
from samkit.stages.encoders.pixels import prepare
from samkit.store.keys import Recipe


class Pixels:
    recipe = Recipe(encoder="own-pixels", weights_sha256="none", input_px=64)
    embedding_shape = (256, 4, 4)
    trained = True
    mask_decoder = None
    live = None
    kernel_paths = ("pixels",)

    def __call__(self, images):
        return self.encode(self.prepare(images))

    def prepare(self, images):
        return prepare(images, input_px=64, pixel_normalisation="sam")

    def encode(self, prepared, kernel_path=None):
        return F.pixel_unshuffle(prepared[:, :1], 16)


class PixelsModel:
    name, default_px, own_weights, needs_weights, block_count = "own-pixels", 64, None, False, None

    def load(self, weights, **settings):
        return Pixels()


MODEL = PixelsModel()
"""


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """Run a command in a process that has the package installed."""
    return shell_with_package(tmp_path / "site", {"samkit.encoders": "own-pixels = own_package:MODEL"}, _MODULE)


def test_it_is_embedded_without_weights_trained_on_and_computed_again(shell, ingested):
    code, said = shell("embed", "--encoder", "own-pixels", *ingested.flag)
    assert code == 0, said
    assert "seed" not in said
    embeddings = package.open_workspace(ingested.workspace).embeddings("own-pixels")
    assert embeddings.trained
    assert shell("train-head", "linear", "--volumes", "1", "--steps", "3", *ingested.flag)[0] == 0
    code, said = shell("verify", "--recompute", "4", *ingested.flag)
    assert code == 0, said


def test_weights_that_are_named_for_it_are_refused(shell, ingested):
    code, said = shell("embed", "--encoder", "own-pixels", "--weights", "sam_vit_b", *ingested.flag)
    assert code == 2
    assert "own-pixels computes its features without any. Leave the flag out" in said
