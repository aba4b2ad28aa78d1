"""Pretrainings: what a network has learned from slices without labels, kept because every draw begins from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from .documents import bytes_digest, read_sealed
from .errors import DamagedStore, MissingRun
from .keys import content_id
from .places import Place

MANIFEST, WEIGHTS, STEPS = "pretraining.json", "weights.safetensors", "steps.json"
_REMEDY = "Remove the folder; the next run that begins from it makes it anew."


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainingSettings:
    """What decides a pretraining's result; equal settings give the same id."""

    #: That begins from it.
    head: str
    #: The digest of the slices of each volume, by its id. Labels are not read.
    slices: Mapping[str, str]
    #: Of a slice.
    channels: int
    #: Steps, batch, rate and the like.
    training: Mapping[str, Any]
    seed: int

    @property
    def id(self) -> str:
        """``<head>-<hash of all settings>``."""
        return f"{self.head}-{content_id(self.to_json(), digits=8)}"

    def to_json(self) -> dict[str, Any]:
        """Return the settings as they are kept."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read settings."""
        return cls(**value)


class Pretraining:
    """A finished pretraining.

    Parameters
    ----------
    folder
        Where it lies.

    Raises
    ------
    DamagedStore
        When its manifest is missing, or not as it was written.
    """

    def __init__(self, folder: Place) -> None:
        self.folder = folder
        manifest = read_sealed(folder / MANIFEST, ("settings", "record"), _REMEDY)
        self.settings = PretrainingSettings.from_json(manifest["settings"])
        #: seconds, code version, digests of the other files, ...
        self.record: dict[str, Any] = dict(manifest["record"])

    @property
    def id(self) -> str:
        """Its name."""
        return self.folder.name

    def read(self, name: str) -> bytes:
        """Return the content of a file of it, verified.

        Raises
        ------
        DamagedStore
            When it is missing, or not what was written.
        """
        data = self.folder.read_children([name]).get(name)
        if data is None or bytes_digest(data) != self.record.get("files", {}).get(name):
            message = f"{self.folder / name}: missing, or not what was written. {_REMEDY}"
            raise DamagedStore(message)
        return data


class Pretrainings(Mapping[str, Pretraining]):
    """The finished pretrainings of a workspace, by id."""

    def __init__(self, folder: Place) -> None:
        self.folder = folder

    def __getitem__(self, name: str) -> Pretraining:
        if name not in self:
            message = f"no pretraining {name!r} in {self.folder}."
            raise MissingRun(message)
        return Pretraining(self.folder / name)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (self.folder / name / MANIFEST).exists()

    def __iter__(self) -> Iterator[str]:
        return (name for name in self.folder.children() if name in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)
