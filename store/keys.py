"""What makes two embeddings the same embedding: digests, row keys and recipes.

A row of features is found only by *what went in* (the digest of the slice's pixels,
the view, the tile) under *how it was computed* (the recipe). Names of files,
volumes and patients never enter a key.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from .documents import canonical_json, check_fields
from .errors import NewerFormat, UsageError

# The version of everything in FORMAT.md: a reader refuses a higher one.
FORMAT_VERSION = 1

NECK = "neck"
"""The tap of what SAM's image encoder ends with."""

# 128 bits: the chance that two of a billion slices collide is 1e-21.
_DIGEST_BYTES = 16
# 48 bits name a recipe or a run inside one workspace, where there are thousands at most.
_ID_DIGITS = 12


def refuse_later_format(place: object, found: object, made_by: str = "a later samkit") -> None:
    """Refuse what a later samkit wrote, before anything else of it is looked at.

    Raises
    ------
    NewerFormat
        With both formats and the command that updates samkit.
    """
    if isinstance(found, int) and found > FORMAT_VERSION:
        message = (
            f"{place} was written in format {found} by {made_by}; this samkit reads formats up to {FORMAT_VERSION}. "
            f"Update it: pip install --upgrade samkit"
        )
        raise NewerFormat(message)


def array_digest(array: NDArray[Any]) -> str:
    """Return the digest of an array's kind, shape and values (BLAKE2b, 32 hex digits).

    Parameters
    ----------
    array
        Any shape. Hashed in C order and little-endian, so the digest does not depend on the machine.
    """
    little_endian = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    hasher = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    hasher.update(canonical_json([array.dtype.name, list(array.shape)]).encode())
    hasher.update(little_endian.data if little_endian.size else b"")
    return hasher.hexdigest()


def content_id(value: object, digits: int = _ID_DIGITS) -> str:
    """Return the first ``digits`` hex digits of the SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:digits]


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class RowKey:
    """What one row of features was computed from."""

    #: Digest of the slice's pixels, see `array_digest`.
    slice_digest: str
    #: The view's definition, "identity" for the slice as it is.
    view: str = "identity"
    #: The part of the plane, "full" unless a large plane was split.
    tile: str = "full"

    def __post_init__(self) -> None:
        for part in (self.slice_digest, self.view, self.tile):
            if not part or "/" in part:
                message = (
                    f"a row's key cannot have the part {part!r}: parts are joined by '/', so each needs a character "
                    f"and none may hold a '/'. Name the view or tile otherwise."
                )
                raise UsageError(message)

    def __str__(self) -> str:
        return f"{self.slice_digest}/{self.view}/{self.tile}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a key from its text, the inverse of ``str(key)``.

        Raises
        ------
        ValueError
            When there are not three parts.
        UsageError
            When one of them is empty.
        """
        # Interned: a million keys of a few views share the views' names.
        slice_digest, view, tile = map(sys.intern, text.split("/"))
        return cls(slice_digest=slice_digest, view=view, tile=tile)


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Everything that changes an embedding's numbers; equal recipes have equal ids on every machine."""

    #: "sam_vit_b", "nano", "hf-dinov2-small", ...
    encoder: str
    #: Of the file that was loaded; for seeded weights, of the tensors themselves; for a folder of several files, of the
    #: lines that ``sha256sum`` prints for them.
    weights_sha256: str
    #: Which layer's output: "neck" is SAM's final image embedding, (256, input_px / 16, input_px / 16); "tokens" are
    #: those of a ViT's patches after its last layer; "block:9" are those that enter its block 9, counted from 0.
    tap: str = NECK
    #: Side of the square that the encoder is given, in pixels.
    input_px: int
    #: How a slice is brought to that square; "longest-side" keeps the aspect and pads bottom and right, "square" does
    #: neither.
    resize: str = "longest-side"
    #: How [0, 1] becomes what the encoder is given: the name of a rule, or the rule itself spelled out.
    pixel_normalisation: str = "sam"
    #: "float32" or "bfloat16".
    compute_precision: str = "float32"
    #: "float16" or "float32".
    storage_precision: str = "float16"
    format_version: int = FORMAT_VERSION

    @property
    def id(self) -> str:
        """Twelve hex digits of the recipe's canonical JSON."""
        return content_id(asdict(self))

    @property
    def folder_name(self) -> str:
        """The recipe's folder below ``embeddings/``."""
        return f"{self.encoder}--{self.id}"

    @property
    def block(self) -> int | None:
        """The transformer block that the rows enter, from 0; None for what an encoder ends with."""
        return block_of(self.tap)

    @property
    def tolerance(self) -> float:
        """Relative L2 error within which two devices agree on a row.

        float32 differs by the order of sums, 1e-5 and less, below float16 storage's own rounding
        of 2e-4; bfloat16 keeps 8 bits, and vit_b's twelve blocks measured 6e-3 to 1e-2. int8 rounds to steps of which
        two such rows may take neighbours: 2.5e-3 where float32 differs by 1e-4, and 2.5e-2 where bfloat16 does.
        """
        if self.storage_precision == "int8":
            return 3e-2 if self.compute_precision == "bfloat16" else 5e-3
        return 1.5e-2 if self.compute_precision == "bfloat16" else 1e-3

    def to_json(self) -> dict[str, Any]:
        """Return the recipe as it is kept in ``recipe.json``."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read a recipe, refusing fields that this version does not know.

        Raises
        ------
        DamagedStore
            When fields are missing or unknown.
        """
        remedy = "Its embeddings are not used. Restore it, or remove its folder and run `samkit embed`."
        return cls(**check_fields("the recipe in recipe.json", value, (field.name for field in fields(cls)), remedy))

    def differences(self, other: Recipe) -> list[str]:
        """Name the fields in which two recipes differ, as ``field: mine -> theirs``."""
        mine, theirs = asdict(self), asdict(other)
        return [
            f"{name}: {_short(mine[name])} -> {_short(theirs[name])}" for name in mine if mine[name] != theirs[name]
        ]


def block_of(tap: str) -> int | None:
    """Return the number of the block whose input a tap is, or None for what an encoder ends with.

    >>> block_of("block:9"), block_of("neck")
    (9, None)
    """
    name, _, number = tap.partition(":")
    return int(number) if name == "block" and number.isdecimal() else None


def shard_id(recipe_id: str, keys: Sequence[RowKey]) -> str:
    """Return the name of the shard that holds exactly these rows in this order."""
    return content_id([recipe_id, [str(key) for key in keys]], digits=24)


def _short(value: object) -> str:
    text = str(value)
    return f"{text[:6]}.." if len(text) == 64 else text
