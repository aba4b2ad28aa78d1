"""Runs: one head trained on one draw, with everything that made it and what it scored.

A run's folder appears whole, by one rename, when training and scoring are done.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from typing import Any, Self

import zarr

from .arrays import TORN_ARRAY, open_array
from .documents import read_json, read_sealed
from .errors import DamagedStore, MissingRun, UsageError
from .keys import content_id
from .places import Place, place_of
from .slices import Volume


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSettings:
    """What decides a run's result; equal settings give the same run id."""

    head: str
    #: The head's own settings, enough to build it again.
    head_config: Mapping[str, Any]
    encoder: str
    recipe_id: str
    split: str
    split_digest: str
    #: Number of labelled subjects drawn.
    subjects: int
    draw: int
    #: The subjects drawn, in the order of the draw.
    drawn: tuple[str, ...]
    #: The drawn subject used for early stopping, or None.
    validation: str | None
    #: `Volume.content` of each labelled volume of the drawn subjects.
    drawn_volumes: Mapping[str, str]
    #: `Volume.content` of each volume scored: another reference is another result.
    scored_volumes: Mapping[str, str]
    label_names: Mapping[int, str]
    #: Steps, batch, learning rate and the like, see `heads.fitting.FitOptions`.
    training: Mapping[str, Any]
    seed: int

    @property
    def run_id(self) -> str:
        """``<head>-<subjects>-<draw>-<hash of all settings>``."""
        return f"{self.head}-{self.subjects}-{self.draw}-{content_id(self.to_json(), digits=8)}"

    def to_json(self) -> dict[str, Any]:
        """Return the settings as they are kept in ``run.json``."""
        return {**asdict(self), "label_names": {str(value): name for value, name in self.label_names.items()}}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read settings."""
        kept = dict(value)
        kept["drawn"] = tuple(kept["drawn"])
        kept["label_names"] = {int(number): name for number, name in kept["label_names"].items()}
        return cls(**kept)


class Run:
    """A finished run."""

    def __init__(self, folder: Place) -> None:
        self.folder = folder
        place = folder / "run.json"
        manifest = read_sealed(place, ("settings", "record", "scores"), "Remove the folder and train the run again.")
        try:
            self.settings = RunSettings.from_json(manifest["settings"])
            #: seconds, peak memory, steps done, code version, the encoder's and the ingest recipe, ...
            self.record: dict[str, Any] = dict(manifest["record"])
            #: One entry a scored volume: id, subject, shape, scores by class, accuracy.
            self.scores: list[dict[str, Any]] = list(manifest["scores"])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            message = f"{place}: incomplete ({error!r}). Remove the folder and train the run again."
            raise DamagedStore(message) from error

    @property
    def id(self) -> str:
        """The run's name."""
        return self.folder.name

    @property
    def alias(self) -> str:
        """``head@subjects#draw``, the short name people type."""
        return f"{self.settings.head}@{self.settings.subjects}#{self.settings.draw}"

    @property
    def predictions(self) -> dict[str, zarr.Array[Any]]:
        """Predicted label maps of the scored volumes, (slices, rows, columns), by volume id."""
        folder = self.folder / "predictions"
        try:
            return {volume["volume_id"]: open_array(folder / volume["volume_id"]) for volume in self.scores}
        except TORN_ARRAY as error:
            message = f"{folder}: a prediction is missing or torn ({error}). Remove the run and train it again."
            raise DamagedStore(message) from error

    @property
    def steps(self) -> list[dict[str, Any]]:
        """Loss and learning rate by step, validation where there was any."""
        return list(read_json(self.folder / "steps.json"))


class Runs(Mapping[str, Run]):
    """The finished runs of a workspace, by id, oldest first."""

    def __init__(self, folder: Place) -> None:
        self.folder = folder

    def __getitem__(self, run_id: str) -> Run:
        if run_id not in self._ids():
            message = f"no run {run_id!r} in {self.folder}. `samkit status` lists the runs there are."
            raise MissingRun(message)
        return Run(self.folder / run_id)

    def __iter__(self) -> Iterator[str]:
        return iter(self._ids())

    def __len__(self) -> int:
        return len(self._ids())

    def find(self, text: str) -> Run:
        """Find the one run that ``text`` names: an id, a path, ``latest`` or ``head@subjects#draw``.

        Raises
        ------
        MissingRun
            When there is none, or more than one; the choices are listed.
        """
        ids = self._ids()
        if not ids:
            message = f"no runs in {self.folder.parent} yet. Train one: samkit train-head linear --volumes 1"
            raise MissingRun(message)
        if text == "latest":
            return Run(self.folder / ids[-1])
        # A path counts only if it leads here: another workspace may have a run of the same name.
        name = text.rstrip("/").rpartition("/")[2]
        if name in ids and (name == text or place_of(text).same_as(self.folder / name)):
            return Run(self.folder / name)
        runs = list(self.values())
        named = [run for run in runs if text in (run.alias, run.alias.split("#")[0])]
        if len(named) == 1:
            return named[0]
        if named:
            message = f"{text!r} names {len(named)} runs: {_listed(named)}. Name one by its id."
            raise MissingRun(message)
        near = get_close_matches(text, [name for run in runs for name in (run.id, run.alias)], n=1)
        hint = f"Did you mean {near[0]!r}? " if near else ""
        message = f"no run {text!r}. {hint}There are: {_listed(runs)}."
        raise MissingRun(message)

    def _ids(self) -> list[str]:
        times = {name: (self.folder / name / "run.json").modified() for name in self.folder.children()}
        finished = [name for name, time in times.items() if time]
        return sorted(finished, key=lambda name: (times[name], name))


def stale_because(run: Run, volumes: Mapping[str, Volume]) -> str | None:
    """Say why a run no longer describes the volumes of its workspace, or None while it does."""
    for volume_id, content in {**run.settings.drawn_volumes, **run.settings.scored_volumes}.items():
        if volume_id not in volumes:
            return f"{volume_id} is gone"
        now = volumes[volume_id].content
        if now != content:
            what = "slices" if now.split("/")[0] != content.split("/")[0] else "label"
            return f"the {what} of {volume_id} changed"
    return None


def check_name(kind: str, name: str, known: Sequence[str]) -> None:
    """Refuse a name that is not among ``known``, suggesting the nearest.

    Raises
    ------
    UsageError
        With the nearest name, and all of them.
    """
    if name not in known:
        near = get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        message = f"unknown {kind} {name!r}.{hint} There are: {', '.join(sorted(known))}."
        raise UsageError(message)


def _listed(runs: Sequence[Run]) -> str:
    shown = [f"{run.id} ({run.alias})" for run in runs[:12]]
    return ", ".join(shown) + (f" and {len(runs) - 12} more" if len(runs) > 12 else "")
