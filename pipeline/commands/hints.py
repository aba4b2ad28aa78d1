"""What comes next, as commands that can be copied as they stand."""

from __future__ import annotations

import shlex

from ...store.embeddings import Embeddings
from ...store.places import DEFAULT_WORKSPACE
from ..plan import FULL


def workspace_flag(path: object) -> str:
    """Return the flag that finds a workspace, with a space before it: nothing for the default one."""
    return "" if str(path) == DEFAULT_WORKSPACE else f" --workspace {shlex.quote(str(path))}"


def first_training(embeddings: Embeddings) -> str:
    """Return what to train first on embeddings, without the workspace: seconds to minutes with the encoder there is."""
    from ...heads.base import MASK_DECODER_FILE  # here, because they load torch, and `status` answers without it
    from ...stages.encoders.base import find_encoder
    from ...stages.encoders.nano import NANO

    recipe = embeddings.recipe
    if recipe.block is not None:
        blocks = (find_encoder(recipe.encoder).block_count or 0) - recipe.block
        return f"samkit train-head med-sa --volumes 1 --draws 3 --encoder {recipe.id} --adapted-blocks last:{blocks}"
    # On `nano` the convolutions of `linear` are as good as its mask decoder (its card), and quicker.
    is_sam = MASK_DECODER_FILE in embeddings.attachments and recipe.encoder != NANO.name
    tiles = " --tiles" if any(key.tile != FULL for key in embeddings.journal) else ""
    return f"samkit train-head {'autosam' if is_sam else 'linear'} --volumes 1 --draws 3{tiles}"
