"""weights: which checkpoint a command loads, and the shelf they are kept on."""

from __future__ import annotations

from pathlib import Path

from ...stages.encoders.base import find_encoder
from ...stages.encoders.weights import WeightsShelf
from ...store.errors import WeightsError
from ...store.keys import Recipe
from .. import console
from ..exit_codes import DONE

# What `--weights` says for numbers that come from a seed.
SEEDED = "seeded"


def run_weights_add(file: Path) -> int:
    """Put a checkpoint on the shelf."""
    kept = WeightsShelf().add(file)
    console.say(f"{kept.encoder}: {kept.path} ({console.readable_bytes(kept.size_bytes)}, sha256 {kept.sha256[:16]}..)")
    console.say(f"next: samkit embed --encoder {kept.encoder}")
    return DONE


def run_weights_list() -> int:
    """List the checkpoints on the shelf."""
    shelf = WeightsShelf()
    rows = [[kept.encoder, kept.sha256[:16], console.readable_bytes(kept.size_bytes)] for kept in shelf]
    if rows:
        console.table(f"Weights in {shelf.folder}", ["encoder", "sha256", "size"], rows, numbers_from=2)
    else:
        console.say(f"no weights in {shelf.folder}. Add a checkpoint: samkit weights add FILE")
    return DONE


def weights_file_of(encoder_name: str, weights: str | None) -> Path | None:
    """Return the checkpoint to load: the file named, else the shelf's newest; None for seeded weights."""
    find_encoder(encoder_name)
    if weights == SEEDED:
        return None
    if weights is not None:
        return Path(weights)
    kept = WeightsShelf().find(encoder=encoder_name)
    if kept is not None:
        return kept.path
    if encoder_name == "nano":
        return None
    message = (
        f"{encoder_name} needs its checkpoint, and none is on the shelf. Give the file: --weights FILE, or keep it for "
        f"later commands: samkit weights add FILE. To try the machinery with untrained numbers: --weights {SEEDED}"
    )
    raise WeightsError(message)


def weights_of(recipe: Recipe, weights: str | None, *, trained: bool) -> Path | None:
    """Return the checkpoint to load for a recipe: the file named, else the shelf's; None for seeded weights.

    Whether they are the recipe's is for `load_recipe` to say.
    """
    if weights is not None:
        return None if weights == SEEDED else Path(weights)
    return shelved_weights(recipe) if trained else None


def shelved_weights(recipe: Recipe) -> Path:
    """Return the shelf's checkpoint with the digest of a recipe.

    Raises
    ------
    WeightsError
        When it is not there; the digest and the commands are named.
    """
    kept = WeightsShelf().find(sha256=recipe.weights_sha256)
    if kept is None:
        message = (
            f"the weights of {recipe.encoder} (sha256 {recipe.weights_sha256[:16]}..) are not at hand. "
            f"Give the file: --weights FILE, or keep it for later commands: samkit weights add FILE"
        )
        raise WeightsError(message)
    return kept.path
