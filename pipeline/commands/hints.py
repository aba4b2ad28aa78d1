"""What comes next, as commands that can be copied as they stand."""

from __future__ import annotations

import shlex

from ...store.embeddings import Embeddings
from ...store.places import DEFAULT_WORKSPACE
from ...store.workspace import Workspace
from ..plan import FULL

# One to be trained on, one to be scored.
_FEWEST_SUBJECTS = 2


def workspace_flag(path: object) -> str:
    """Return the flag that finds a workspace, with a space before it: nothing for the default one."""
    return "" if str(path) == DEFAULT_WORKSPACE else f" --workspace {shlex.quote(str(path))}"


def after_embedding(workspace: Workspace, embeddings: Embeddings) -> str:
    """Return what to type when every slice has a row: a training, or what that needs before it."""
    flag = workspace_flag(workspace.path)
    if len(workspace.labelled_subjects) < _FEWEST_SUBJECTS:
        return (
            f"samkit ingest --labels-from FOLDER{flag}: a head needs two labelled subjects, to be trained on and scored"
        )
    return f"{first_training(embeddings)}{flag}"


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
