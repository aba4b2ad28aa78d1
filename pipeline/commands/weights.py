"""weights: which checkpoint a command loads, the shelf they are kept on, and how published ones come there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...stages.encoders.catalogue import KNOWN_WEIGHTS, SEEDED, KnownWeights, find_known
from ...stages.encoders.digests import file_sha256
from ...stages.encoders.download import Listener
from ...stages.encoders.shelf import ShelvedWeights, WeightsShelf
from ...stages.encoders.weights import get_weights
from ...store.errors import UsageError, WeightsError
from ...store.keys import Recipe
from .. import console
from ..exit_codes import DONE

if TYPE_CHECKING:
    from ...stages.encoders.base import Encoder

_MEGABYTE = 1_000_000


# -- the verbs -------------------------------------------------------------------------------------


def run_weights_get(name: str, *, mirror: str | None, offline: bool) -> int:
    """Bring a published checkpoint to the shelf."""
    known, shelf = find_known(name), WeightsShelf()
    begun = shelf.size_of_part(known)
    if begun:
        console.say(f"{name}: {console.readable_bytes(begun)} are there from an earlier try")
    with console.progress_bar(name, known.about_bytes // _MEGABYTE, "MB") as bar:

        def progress(what: str, done: int, total: int) -> None:
            bar.reach(f"{name}: {what}", done // _MEGABYTE, total // _MEGABYTE)

        gotten = get_weights(
            known, shelf, mirror=mirror, offline=offline, listener=Listener(progress=progress, warn=console.warn)
        )
    kept = gotten.weights
    size = console.readable_bytes(kept.size_bytes)
    if gotten.source is None:
        console.say(f"{name} is on the shelf already: {kept.path} ({size}, sha256 {kept.sha256[:16]}..)")
    else:
        console.say(f"{name}: {kept.path} ({size}, {_checked_by(known)}; licence {known.licence})")
    console.say(f"next: {_embed_with(kept)}")
    return DONE


def run_weights_add(file: Path) -> int:
    """Put a checkpoint on the shelf."""
    shelf = WeightsShelf()
    kept = shelf.add(file)
    console.say(f"{_title(kept)}: {kept.path} ({console.readable_bytes(kept.size_bytes)}, sha256 {kept.sha256[:16]}..)")
    _say_aside(file)
    meant = next((known for known in KNOWN_WEIGHTS.values() if known.file_name == file.name), None)
    if meant is not None and kept.name != meant.name:
        console.warn(
            f"{file} is called as {meant.name} is, and its bytes are others ({meant.digest_kind} of {meant.name}: "
            f"{meant.digest}). It is kept as a checkpoint of its own."
        )
    console.say(f"next: {_embed_with(kept)}")
    return DONE


def run_weights_list(*, as_json: bool = False) -> int:
    """List the checkpoints on the shelf, and those that can be got."""
    shelf = WeightsShelf()
    there = list(shelf)
    missing = [known for known in KNOWN_WEIGHTS.values() if known.name not in {kept.name for kept in there}]
    if as_json:
        listed = [*map(_json_of_kept, there), *(_json_of_missing(known, shelf) for known in missing)]
        console.output.print_json(json.dumps({"shelf": str(shelf.folder), "weights": listed}))
        return DONE
    rows = [
        [kept.told, kept.encoder, "yes", f"sha256 {kept.sha256[:16]}..", console.readable_bytes(kept.size_bytes)]
        for kept in there
    ]
    for known in missing:
        begun = shelf.size_of_part(known)
        state = f"{console.readable_bytes(begun)} of it" if begun else "no"
        size = f"about {console.readable_bytes(known.about_bytes)}"
        rows.append([known.name, known.encoder, state, f"{known.digest_kind} {known.digest[:16]}..", size])
    columns = ["weights", "encoder", "there", "digest", "size"]
    console.table(f"Weights in {shelf.folder}", columns, rows, numbers_from=4, whole=("weights", "digest"))
    if missing:
        console.say(f"get one: samkit weights get {missing[0].name}")
    console.say("add a checkpoint of your own: samkit weights add FILE")
    return DONE


def _json_of_kept(kept: ShelvedWeights) -> dict[str, Any]:
    return {
        "name": kept.name,
        "encoder": kept.encoder,
        "there": True,
        "path": str(kept.path),
        "size_bytes": kept.size_bytes,
        "sha256": kept.sha256,
        "licence": None if kept.name is None else KNOWN_WEIGHTS[kept.name].licence,
    }


def _json_of_missing(known: KnownWeights, shelf: WeightsShelf) -> dict[str, Any]:
    return {
        "name": known.name,
        "encoder": known.encoder,
        "there": False,
        "url": known.url,
        "about_bytes": known.about_bytes,
        "begun_bytes": shelf.size_of_part(known),
        known.digest_kind: known.digest,
        "licence": known.licence,
    }


def _checked_by(known: KnownWeights) -> str:
    if known.digest_kind == "sha256":
        return f"sha256 {known.digest[:16]}.. as it should be"
    return f"md5 {known.digest} as its publisher shows; no sha256 of it is established"


def _title(kept: ShelvedWeights) -> str:
    return kept.encoder if kept.name in (None, kept.encoder) else f"{kept.name} ({kept.encoder})"


def _embed_with(kept: ShelvedWeights) -> str:
    """Return the command that uses a checkpoint, with its name where the encoder's alone means another."""
    pixels = None if kept.name is None else KNOWN_WEIGHTS[kept.name].pixels
    weights = "" if kept.name == kept.encoder else f" --weights {kept.told}"
    return f"samkit embed --encoder {kept.encoder}{weights}{'' if pixels is None else f' --pixels {pixels}'}"


def remember_weights(encoder: Encoder, weights: Path | None) -> None:
    """Note where the folder of an encoder of `transformers` lies, for later commands that look for its digest."""
    if weights is not None and weights.is_dir():
        WeightsShelf().remember(weights, sha256=encoder.recipe.weights_sha256, encoder=encoder.recipe.encoder)


# -- which checkpoint ------------------------------------------------------------------------------


def weights_file_of(encoder_name: str, weights: str | None) -> Path | None:
    """Return the checkpoint to load, None for seeded weights, and for an encoder that has none.

    What is named: a file, a name of the catalogue, the first digits of a digest. Else what the encoder's name points to
    by itself (``hf:FOLDER``, or weights that come with the encoder), or stands for on the shelf: its official
    checkpoint, or the only one that somebody trained; which is said where there are several.

    Raises
    ------
    WeightsError
        When it is not there, or belongs to another encoder; the commands are named.
    """
    from ...stages.encoders.base import find_encoder, weights_named_by

    model = find_encoder(encoder_name)
    name = model.name
    if not model.needs_weights:
        if weights is None:
            return None
        message = f"--weights {weights}: {name} computes its features without any. Leave the flag out."
        raise UsageError(message)
    if weights == SEEDED and name.startswith("hf-"):
        message = f"--weights {SEEDED}: {name} has no seed, its numbers are those of its folder. Leave the flag out."
        raise UsageError(message)
    if weights == SEEDED:
        return None
    if weights is not None:
        return _file_named(weights, encoder_name)
    if (own := weights_named_by(encoder_name) or model.own_weights) is not None:
        return own
    shelf = WeightsShelf()
    kept = shelf.find(encoder=encoder_name)
    fitting = [other for other in shelf if other.encoder == encoder_name]
    if kept is not None:
        if kept.name != encoder_name or len(fitting) > 1:
            others = [other.told for other in fitting if other.sha256 != kept.sha256]
            choice = f" (others: --weights {' or '.join(others)})" if others else ""
            origin = "" if kept.name else ", the one of your own"
            console.say(f"weights {kept.told} from the shelf{origin}{choice}")
        return kept.path
    if encoder_name.startswith("hf-"):
        message = f"{encoder_name}: the folder of its weights is not known here any more. Give it: --encoder hf:FOLDER"
        raise WeightsError(message)
    official = KNOWN_WEIGHTS.get(encoder_name)
    get = "" if official is None else f"Get it: samkit weights get {official.name} ({_about(official)}). "
    other = f"Or take another: --weights {' or '.join(other.told for other in fitting)}. " if fitting else ""
    message = (
        f"{encoder_name} needs its checkpoint, and none is on the shelf. {get}{other}Or give the file: --weights FILE, "
        f"or keep it for later commands: samkit weights add FILE. To try the machinery with numbers from a seed: "
        f"--weights {SEEDED}"
    )
    raise WeightsError(message)


def weights_of(recipe: Recipe, weights: str | None, *, trained: bool) -> Path | None:
    """Return the checkpoint to load for a recipe: the one named, else that of its digest; None for seeded ones or none.

    Whether they are the recipe's is for `load_recipe` to say.
    """
    if weights is not None:
        return None if weights == SEEDED else _file_named(weights, recipe.encoder)
    from ...stages.encoders.base import needs_weights

    return shelved_weights(recipe) if trained and needs_weights(recipe.encoder) else None


def shelved_weights(recipe: Recipe) -> Path:
    """Return the checkpoint with the digest of a recipe: the one that comes with samkit, or the shelf's.

    Raises
    ------
    WeightsError
        When it is not there; the digest and the commands are named.
    """
    from ...stages.encoders.base import find_encoder, weights_at_hand

    kept = weights_at_hand(recipe)
    if kept is None:
        own = None if recipe.encoder.startswith("hf-") else find_encoder(recipe.encoder).own_weights
        other = "" if own is None else f"This samkit comes with others ({file_sha256(own)[:16]}..). "
        message = (
            f"the weights of {recipe.encoder} (sha256 {recipe.weights_sha256[:16]}..) are not at hand. "
            f"{other}{_how_to_get(recipe)}Give the file: --weights FILE, or keep it for later commands: "
            f"samkit weights add FILE"
        )
        raise WeightsError(message)
    return kept


def _how_to_get(recipe: Recipe) -> str:
    """Say which published weights a recipe's are, or may be where their sha256 is not established."""
    fitting = [known for known in KNOWN_WEIGHTS.values() if known.encoder == recipe.encoder]
    for known in fitting:
        if known.sha256 == recipe.weights_sha256:
            return f"Get them: samkit weights get {known.name} ({_about(known)}). "
    maybe = [known.name for known in fitting if known.sha256 is None]
    return f"If they are those of {maybe[0]}: samkit weights get {maybe[0]}. " if maybe else ""


def _file_named(weights: str, encoder_name: str) -> Path:
    """Return the file that `--weights` means, and say what of it samkit leaves aside."""
    if Path(weights).is_file():
        from ...stages.encoders.base import find_encoder
        from ...stages.encoders.sam import SamModel

        if isinstance(find_encoder(encoder_name), SamModel):
            _say_aside(Path(weights))
        return Path(weights)
    known = KNOWN_WEIGHTS.get(weights)
    kept = WeightsShelf().named(weights)
    encoder = kept.encoder if kept is not None else known.encoder if known is not None else encoder_name
    if encoder != encoder_name:
        message = (
            f"--weights {weights}: weights of {encoder}, and the encoder is {encoder_name}. Type --encoder {encoder}"
        )
        raise WeightsError(message)
    if kept is not None:
        return kept.path
    if known is not None:
        message = f"{weights} is not on the shelf. Get it: samkit weights get {weights} ({_about(known)})"
        raise WeightsError(message)
    return Path(weights)  # whoever loads it says that there is no such file


def _about(known: KnownWeights) -> str:
    return f"about {console.readable_bytes(known.about_bytes)}"


def _say_aside(file: Path) -> None:
    """Say which parts of a checkpoint samkit does not use."""
    from ...stages.encoders.checkpoints import look_into

    if aside := look_into(file).told_aside:
        console.say(f"{file}: SAM's part is taken; left aside: {aside}")
