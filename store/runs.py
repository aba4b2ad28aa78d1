"""Runs: one head trained on one draw, with everything that made it and what it scored.

A run's folder appears whole, by one rename, when training and scoring are done.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import ItemsView, Iterable, Iterator, Mapping, Sequence, ValuesView
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from typing import Any, NoReturn, Self

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore

from .documents import bytes_digest, canonical_json, parse_json, read_json, unsealed
from .errors import DamagedStore, MissingRun, StoreError, UsageError
from .keys import content_id
from .local import LocalPlace
from .places import Place, place_of
from .slices import Volume

#: The encoder, and the recipe, of runs whose head sees the slices themselves.
NO_ENCODER = "none"

# Settings that came later, with the value of the runs before.
_ADDED: Mapping[str, Any] = {"tiles": None, "views": ("identity",), "counted": "subjects", "revision": 1}
# What differs between the draws of one experiment; all else that decides a result is the experiment.
_OF_A_DRAW = ("draw", "drawn", "validation", "drawn_volumes")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSettings:
    """What decides a run's result; equal settings give the same run id."""

    head: str
    #: The head's own settings, enough to build it again.
    head_config: Mapping[str, Any]
    #: `NO_ENCODER`, both, where the head sees the slices themselves.
    encoder: str
    recipe_id: str
    split: str
    split_digest: str
    #: How many were drawn: labelled subjects, or labelled volumes where ``counted`` says frames.
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
    #: The overlap of the tiles that planes larger than the encoder's input were cut into; None where they were resized.
    tiles: float | None = None
    #: Of the slices that it was fitted to.
    views: tuple[str, ...] = ("identity",)
    #: ``subjects``, each with all of its labelled volumes, or ``frames``: labelled volumes one by one.
    counted: str = "subjects"
    #: Of what the head computes, see `heads.base.Head.revision`.
    revision: int = 1

    @property
    def amount(self) -> str:
        """How many were drawn, as people are told: ``5``, or ``5 frames``."""
        return f"{self.subjects}" if self.counted == _ADDED["counted"] else f"{self.subjects} {self.counted}"

    @property
    def experiment(self) -> str:
        """A text of all that decides the result, save the draw and what it brought: alike for comparable draws."""
        return canonical_json({name: value for name, value in self.to_json().items() if name not in _OF_A_DRAW})

    @property
    def features(self) -> str | None:
        """The folder name of the recipe that it was trained on, or None for the slices themselves."""
        return None if self.encoder == NO_ENCODER else f"{self.encoder}--{self.recipe_id}"

    @property
    def run_id(self) -> str:
        """``<head>-<subjects>-<draw>-<hash of all settings>``."""
        return f"{self.head}-{self.subjects}-{self.draw}-{content_id(self.to_json(), digits=8)}"

    def to_json(self) -> dict[str, Any]:
        """Return the settings as they are kept in ``run.json``."""
        kept = {**asdict(self), "label_names": {str(value): name for value, name in self.label_names.items()}}
        # What was not there from the first day is kept where it says something: the ids of other runs stay.
        return {name: value for name, value in kept.items() if name not in _ADDED or value != _ADDED[name]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read settings."""
        kept = dict(value)
        kept["drawn"] = tuple(kept["drawn"])
        kept["views"] = tuple(kept.get("views", _ADDED["views"]))
        # By number: JSON keeps them in the order of their text, 10 before 2.
        names = {int(number): name for number, name in kept["label_names"].items()}
        kept["label_names"] = dict(sorted(names.items()))
        return cls(**kept)


class Run:
    """A finished run.

    Parameters
    ----------
    folder
        Where it lies.
    content
        Its ``run.json``, where that was read already.

    Raises
    ------
    DamagedStore
        When ``run.json`` is missing, or not as it was written.
    """

    def __init__(self, folder: Place, content: bytes | None = None) -> None:
        self.folder = folder
        place = folder / "run.json"
        remedy = "Remove the folder and train the run again."
        told = read_json(place, remedy) if content is None else parse_json(content, place, remedy)
        manifest = unsealed(told, place, ("settings", "record", "scores"), remedy)
        try:
            self.settings = RunSettings.from_json(manifest["settings"])
            #: seconds, peak memory, steps done, when it was finished, code version, the encoder's and the ingest
            #: recipe, digests of the other files, ...
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
    def predictions(self) -> Predictions:
        """Predicted label maps of the scored volumes by volume id, each read and verified when it is asked for."""
        return Predictions(self)

    @property
    def steps(self) -> list[dict[str, Any]]:
        """Loss and learning rate by step, validation where there was any.

        Raises
        ------
        DamagedStore
            When they are missing, or not what was written.
        """
        name = "steps.json"
        return list(parse_json(self.read_files([name])[name], self.folder / name))

    def read_files(self, names: Sequence[str]) -> dict[str, bytes]:
        """Return the content of files of the run by their paths in it, verified against the digests in its record.

        Raises
        ------
        DamagedStore
            When one of them is missing, or not what was written.
        """
        digests = self.record.get("files", {})
        found = self.folder.read_children(names)
        for name in names:
            if name not in found:
                self._damaged(f"{name} is missing")
            if name not in digests:
                self._damaged(f"{name} has no digest in run.json, so that nobody can tell whether it is whole")
            if bytes_digest(found[name]) != digests[name]:
                self._damaged(f"{name} is not what was written: it does not match its digest in run.json")
        return found

    def _damaged(self, what: str) -> NoReturn:
        message = f"run {self.id} ({self.alias}): {what}. Remove {self.folder} and train the run again."
        raise DamagedStore(message)


class Predictions(Mapping[str, NDArray[np.unsignedinteger[Any]]]):
    """The label maps that a run predicted, by volume id, (slices, rows, columns), in the order of its scores.

    Each is read when it is asked for, and only after its files have matched their digests in the run's record.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._ids = [str(volume["volume_id"]) for volume in run.scores]

    def __getitem__(self, volume_id: str) -> NDArray[np.unsignedinteger[Any]]:
        if volume_id not in self._ids:
            message = f"run {self._run.id} has not scored {volume_id!r}; it has scored {', '.join(self._ids)}"
            raise KeyError(message)
        folder = f"predictions/{volume_id}/"
        kept = [name for name in self._run.record.get("files", {}) if name.startswith(folder)]
        # At least its description, so that a prediction of which the record knows nothing is refused.
        content = self._run.read_files(kept or [f"{folder}zarr.json"])
        # What was verified is what is decoded: the files are not read a second time.
        buffer = default_buffer_prototype().buffer
        files = {name.removeprefix(folder): buffer.from_bytes(data) for name, data in content.items()}
        return np.asarray(zarr.open_array(MemoryStore(files), mode="r")[:])

    def __iter__(self) -> Iterator[str]:
        return iter(self._ids)

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, volume_id: object) -> bool:
        return volume_id in self._ids


class Runs(Mapping[str, Run]):
    """The finished runs of a workspace, by id, oldest first.

    The order is that of the time in their records, so that a copy of a workspace has the same ``latest``.
    """

    def __init__(self, folder: Place) -> None:
        self.folder = folder

    def __getitem__(self, run_id: str) -> Run:
        if run_id not in self:
            message = f"no run {run_id!r} in {self.folder}. `samkit status` lists the runs there are."
            raise MissingRun(message)
        return Run(self.folder / run_id)

    def __contains__(self, run_id: object) -> bool:
        # A hidden name is a run that is being written, and a path leads elsewhere.
        one_name = isinstance(run_id, str) and not run_id.startswith(".") and "/" not in run_id
        return one_name and (self.folder / f"{run_id}/run.json").exists()

    def __iter__(self) -> Iterator[str]:
        return iter(self._contents())

    def __len__(self) -> int:
        return len(self._contents())

    def values(self) -> ValuesView[Run]:
        """Return the runs, oldest first, from one listing."""
        return self._opened().values()

    def items(self) -> ItemsView[str, Run]:
        """Return (id, run) pairs, oldest first, from one listing."""
        return self._opened().items()

    def find(self, text: str) -> Run:
        """Find the one run that ``text`` names: an id, a path, ``latest`` or ``head@subjects#draw``.

        Raises
        ------
        MissingRun
            When there is none, or more than one; the choices are listed.
        """
        contents = self._contents()
        if not contents:
            message = f"no runs in {self.folder.parent} yet. Train one: samkit train-head linear --volumes 1"
            raise MissingRun(message)
        # A path counts only if it leads here: another workspace may have a run of the same name.
        name = list(contents)[-1] if text == "latest" else text.rstrip("/").rpartition("/")[2]
        if name in contents and (text in (name, "latest") or place_of(text).same_as(self.folder / name)):
            return Run(self.folder / name, contents[name])
        runs = [Run(self.folder / name, content) for name, content in contents.items()]
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

    def check_writable(self) -> None:
        """Refuse to spend hours on a run that could not be kept.

        Raises
        ------
        StoreError
            When the folder is on this machine and cannot be written to. An object store says so when it is written to.
        """
        if not isinstance(self.folder, LocalPlace):
            return
        folder = self.folder.path if self.folder.path.is_dir() else self.folder.path.parent
        if not os.access(folder, os.W_OK | os.X_OK):
            workspace = shlex.quote(str(self.folder.parent))
            message = (
                f"{folder} cannot be written to, and a run is kept there: nothing was fitted. Train in a copy of the "
                f"workspace (cp -r {workspace} COPY, then --workspace COPY), or have its rights changed."
            )
            raise StoreError(message)

    def _opened(self) -> dict[str, Run]:
        return {name: Run(self.folder / name, content) for name, content in self._contents().items()}

    def _contents(self) -> dict[str, bytes]:
        """Return the ``run.json`` of every finished run by its id, oldest first: one listing, one reading of each."""
        manifests = {f"{name}/run.json": name for name in self.folder.children()}
        found = {manifests[path]: content for path, content in self.folder.read_children(manifests).items()}
        times = {name: self._finished(name, content) for name, content in found.items()}
        return {name: found[name] for name in sorted(found, key=lambda name: (times[name], name))}

    def _finished(self, name: str, content: bytes) -> float:
        """Return when a run was finished; of one that does not say so, or is damaged, when its file was written."""
        try:
            return float(json.loads(content)["record"]["finished"])
        except (KeyError, TypeError, ValueError):  # whoever opens it says what is wrong with it
            return (self.folder / name / "run.json").modified()


def touched_by(runs: Mapping[str, Run], volume_ids: Iterable[str]) -> list[Run]:
    """Return the runs that were trained on one of these volumes or scored on one, in the order of ``runs``.

    They are those that become stale when the volumes go, see `stale_because`.
    """
    touched = set(volume_ids)
    return [run for run in runs.values() if touched & {*run.settings.drawn_volumes, *run.settings.scored_volumes}]


def stale_because(run: Run, volumes: Mapping[str, Volume]) -> str | None:
    """Say why a run no longer describes the volumes of its workspace, or None while it does."""
    for volume_id, content in {**run.settings.drawn_volumes, **run.settings.scored_volumes}.items():
        if volume_id not in volumes:
            return f"{volume_id} is gone"
        now = volumes[volume_id].content
        if now != content:
            what = "slices" if now.split("/")[0] != content.split("/")[0] else "label"
            return f"the {what} of {volume_id} changed"
    # Who is whose may have been corrected since: by --subject, say.
    drawn = {volumes[volume_id].subject for volume_id in run.settings.drawn_volumes}
    both = sorted(drawn & {volumes[volume_id].subject for volume_id in run.settings.scored_volumes})
    return f"it was trained on {both[0]} and scored on it, as subjects are now" if both else None


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
