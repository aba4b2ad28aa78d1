"""Whether the embedded encoder is worth shipping: heads on its features from one labelled subject and from five.

Frozen `nano` at its own size and at twice that, beside the same architecture with seeded numbers, beside the pixels
themselves as features, and beside a U-Net trained from nothing on the same draws; then box prompts without any
training. On ACDC and hippocampus, which no training of samkit's has seen.

few_shot.py --tune   try every setting of each head on `nano`, and of the U-Net, on development subjects of ACDC
few_shot.py          score the development subjects, each head with its best setting
few_shot.py --final  score the final subjects, once; with --correct HEAD once more, by a later revision of a head

Which subjects are scored was fixed in `subjects.json` before the first try. A round may be run in parts (``--data``,
``--features``, ``--heads``), on one machine or several: what was scored joins what `results` holds, and is not scored
again. Runs of a part that is stopped are kept in a workspace, ``--folder``; the same command goes on from there.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from box_prompts import box_dice
from measure import ACDC, HIPPOCAMPUS, RESULTS, SAMKIT, SUBJECTS, cost_of, this_machine, write_numbers
from raw_pixels import RawPixels

from samkit.heads.averages import mean_by_class, mean_over_classes, over_draws
from samkit.heads.base import find_head
from samkit.heads.comparison import dice_grid
from samkit.heads.feeding import AS_THEY_ARE
from samkit.heads.metrics import ScoredVolume
from samkit.heads.recipes import FitOptions
from samkit.heads.sampling import draw_subjects
from samkit.heads.views import Bank
from samkit.pipeline.commands.embed import embed_all
from samkit.pipeline.console import counted, say, table
from samkit.pipeline.trainers import train_cells
from samkit.stages.encoders.base import Encoder
from samkit.stages.encoders.devices import resolve_precision
from samkit.stages.encoders.digests import file_sha256
from samkit.stages.encoders.memory import keep_freed_memory
from samkit.stages.encoders.nano import NANO
from samkit.stages.training.plan import TrainOptions, labelled_volumes, plan_run
from samkit.store.embeddings import Embeddings
from samkit.store.runs import Run
from samkit.store.splits import Split
from samkit.store.workspace import Workspace, open_workspace

DATA = {"acdc": ACDC, "hippocampus": HIPPOCAMPUS}
INGEST = {"acdc": [], "hippocampus": ["--labels", "1=anterior,2=posterior", "--ids", "stem"]}
# Pixels along a side of what is encoded; "none" is for heads that see the slices themselves.
FEATURES = {"nano": 256, "seeded": 256, "pixels": 256, "none": 0, "nano-512": 512}
# What is trained on each. On four times the cells the quickest head: others take several times the seconds there.
HEADS = {
    "nano": ("prototype", "ridge", "probe", "linear", "autosam", "cnn", "hybrid"),
    "nano-512": ("ridge",),
    "seeded": ("ridge", "probe", "linear", "autosam", "hybrid"),
    "pixels": ("ridge", "probe", "linear", "autosam"),
    "none": ("unet",),
}
# Hippocampus has planes of some 50 pixels, which twice the encoder's size would only magnify.
WITHOUT = {"acdc": (), "hippocampus": ("nano-512",)}
WORKERS = 2  # runs at once, each by one thread
COUNTS, DRAWS = (1, 5), 5


# Beside the slice as it is: quarter turns and more, without which a head learns where in the picture one subject's
# organ lies (tried on development subjects). No reflections: a heart's right is not its left.
TURNED = Bank.parse(
    "identity,rotate90,rotate180,rotate270,rotate+30-bilinear,rotate-30-bilinear,rotate+60-bilinear,rotate-60-bilinear,"
    "rotate90:rotate+45-bilinear:gamma0.70,rotate180:rotate-45-bilinear:gamma1.40,rotate+15-bilinear:gamma0.70,"
    "rotate-15-bilinear:gamma1.40"
)
# Patients' organs are of unlike size. The U-Net's patches are of slices in the views above, and it zooms them itself.
BANK = Bank.parse(
    ",".join(
        [
            *TURNED.texts,
            *(f"{turn}:zoom{zoom}-bilinear" for turn in list(TURNED.texts)[:4] for zoom in ("0.75", "1.30")),
        ]
    )
)
# As what is kept names them: by their numbers, which have to differ.
VIEWS = {f"{len(bank.texts)} views": list(bank.texts) for bank in (TURNED, BANK)}
assert len(VIEWS) == 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """How a head is fitted: to all of its subjects in a bank of views, for so many steps, in this machine's precision.

    No subject is kept to stop by: the rate falls to nothing over the steps, and a fifth of five subjects is dear.
    """

    steps: int
    learning_rate: float
    batch_size: int = 8
    views: tuple[str, ...] = BANK.texts

    def __str__(self) -> str:
        fitted = f"{self.steps} steps of {self.batch_size}, rate {self.learning_rate:g}" if self.steps else "one pass"
        return f"{fitted}, {len(self.views)} views" if self.views != AS_THEY_ARE else f"{fitted}, no views"

    @property
    def options(self) -> FitOptions:
        """The same as options of a fit."""
        return FitOptions(
            steps=self.steps,
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
            validate_every=None,
            precision=resolve_precision("auto", torch.device("cpu")),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """A head on a kind of features, with a setting."""

    features: str
    head: str
    setting: Setting

    @property
    def key(self) -> str:
        """What its scores are kept under."""
        return f"{self.features} {self.head}, {self.setting}"


IN_ONE_PASS = Setting(steps=0, learning_rate=0.0)

# Two for a head, five for the U-Net. Which is best is read from what `--tune` kept.
SETTINGS: dict[str, tuple[Setting, ...]] = {
    "prototype": (IN_ONE_PASS,),
    "ridge": (IN_ONE_PASS,),
    "probe": (Setting(steps=300, learning_rate=1e-2), Setting(steps=300, learning_rate=3e-3)),
    "linear": (Setting(steps=300, learning_rate=3e-3), Setting(steps=300, learning_rate=1e-3)),
    "cnn": (Setting(steps=300, learning_rate=3e-3), Setting(steps=300, learning_rate=1e-3)),
    "hybrid": (Setting(steps=2400, learning_rate=1e-3), Setting(steps=2400, learning_rate=3e-3)),
    "autosam": (Setting(steps=150, learning_rate=1e-3), Setting(steps=150, learning_rate=3e-4)),
    "unet": (
        Setting(steps=1200, learning_rate=1e-3, batch_size=4, views=TURNED.texts),
        Setting(steps=2400, learning_rate=1e-3, batch_size=4, views=TURNED.texts),
        Setting(steps=2400, learning_rate=1e-3, batch_size=4, views=AS_THEY_ARE),
        Setting(steps=2400, learning_rate=3e-3, batch_size=4, views=TURNED.texts),
        Setting(steps=4800, learning_rate=1e-3, batch_size=4, views=TURNED.texts),
    ),
}
# On whatever else a head is trained, it is as it did best on `nano`.
TUNED_ON, TUNED_FEATURES, TUNED_DRAWS = "acdc", ("nano", "none"), 2


def main() -> None:
    """Measure and keep, after each head."""
    asked = _asked()
    keep_freed_memory()
    kept = Kept.of(asked)
    with _folder(asked.folder) as folder:
        for data in asked.data:
            left = [one for one in asked.features if one not in WITHOUT[data]]
            todo = {features: kept.todo(data, fits(features, asked)) for features in left}
            boxes = [features for features in left if kept.lacks_boxes(data, features)]
            if not boxes and not any(todo.values()):
                continue
            if not DATA[data].is_dir():
                say(f"{data}: not at {DATA[data]}, and nothing else can stand for it; what is kept is shown")
                continue
            study = Study.of(folder / data, data, asked)
            for features in left:
                for fit in todo[features]:
                    started = time.perf_counter()
                    found = study.scores(fit)
                    kept.add(data, found, time.perf_counter() - started)
                if features in boxes:
                    started = time.perf_counter()
                    kept.add(data, study.boxes(features), time.perf_counter() - started)
    kept.show()


@dataclass(kw_only=True, slots=True)
class Kept:
    """What a round has scored so far; what stands there is not scored again, wherever the round goes on."""

    asked: argparse.Namespace
    name: str
    #: What all scores of a file are of.
    about: dict[str, Any]
    numbers: dict[str, dict[str, Any]]
    #: What final subjects were scored by before it was corrected, oldest first; by data, then as the rest. No look at
    #: them is forgotten.
    superseded: dict[str, dict[str, list[dict[str, Any]]]]
    seconds: float

    @classmethod
    def of(cls, asked: argparse.Namespace) -> Self:
        """Read what stands there.

        Raises
        ------
        SystemExit
            When that was made otherwise: hours of work are not written over.
        """
        about = {
            "draws": asked.draws,
            **({} if asked.whole else {"counts": asked.counts}),
            "views": VIEWS,
            "weights_sha256": file_sha256(asked.weights),
            "precision": resolve_precision("auto", torch.device("cpu")),
        }
        name = f"few_shot_{asked.round}" if asked.whole else f"few_shot_{asked.round}.local"
        there = _read(name)
        other = [key for key, value in about.items() if there and there.get(key) != value]
        if other:
            remedy = "" if asked.round == "final" else " To begin anew, move the file away."
            message = f"{RESULTS / name}.json: scored already, with other {', '.join(other)}.{remedy}"
            raise SystemExit(message)
        numbers = {data: there[data] for data in DATA if data in there}
        superseded, seconds = there.get("superseded", {}), there.get("seconds", 0.0)
        return cls(asked=asked, name=name, about=about, numbers=numbers, superseded=superseded, seconds=seconds)

    def todo(self, data: str, fits: Sequence[Fit]) -> list[Fit]:
        """Return what is not scored yet; a head whose final score stands, with another setting, is not scored again.

        Raises
        ------
        SystemExit
            When a head was scored on the final subjects before its revision, and nobody says that this corrects it.
        """
        scored, todo = self.numbers.get(data, {}), []
        for fit in fits:
            of_head = [key for key in scored if key.startswith(f"{fit.features} {fit.head},")]
            same = [key for key in of_head if key == fit.key or self.asked.round == "final"]
            of_another = [key for key in same if scored[key]["revision"] != find_head(fit.head).revision]
            if of_another and self.asked.round == "final" and fit.head not in self.asked.correct:
                message = (
                    f"{of_another[0]}: an earlier revision of it was scored on the final subjects of {data}. Where "
                    f"this one corrects a mistake: --correct {fit.head}, which keeps the earlier score beside it."
                )
                raise SystemExit(message)
            if of_another or not same:
                todo.append(fit)
        return todo

    def lacks_boxes(self, data: str, features: str) -> bool:
        """Return whether prompts are to be asked of these features, and were not yet."""
        prompted = features.startswith("nano") and features not in WITHOUT[data] and self.asked.round != "tries"
        return prompted and f"{features} boxes" not in self.numbers.get(data, {})

    def add(self, data: str, found: dict[str, Any], seconds: float) -> None:
        """Add what was scored to what stands there by now: another part may have ended meanwhile."""
        meanwhile = type(self).of(self.asked)
        self.numbers, self.superseded, self.seconds = meanwhile.numbers, meanwhile.superseded, meanwhile.seconds
        scored = self.numbers.setdefault(data, {})
        if self.asked.round != "tries":
            # Of a head that is scored again, because what it computes has changed, or which setting is its best.
            heads = tuple(key.partition(",")[0] + "," for key in found if "," in key)
            earlier = {key: one for key, one in scored.items() if key.startswith(heads)}
            scored = {key: one for key, one in scored.items() if key not in earlier}
            if self.asked.round == "final":
                for key, one in earlier.items():
                    self.superseded.setdefault(data, {}).setdefault(key, []).append(one)
        self.numbers[data] = {**scored, **found}
        self.seconds += seconds
        superseded = {"superseded": self.superseded} if self.superseded else {}
        write_numbers(self.name, {**self.about, "seconds": self.seconds, **self.numbers, **superseded})

    def show(self) -> None:
        """Print the table of all that stands there."""
        counts = [counted(count, "subject") for count in self.asked.counts]
        rows = [
            [data, *key.split(" ", 1), *(_spread(found[str(count)]["dice"]) for count in self.asked.counts)]
            for data, scored in self.numbers.items()
            for key, found in scored.items()
            if "," in key
        ]
        scored_on = "final" if self.asked.round == "final" else "development"
        title = f"Mean Dice of {scored_on} subjects, mean (least to most) of the draws"
        table(title, ["data", "features", "head", *counts], rows)


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    rounds = parser.add_mutually_exclusive_group()
    rounds.add_argument("--tune", dest="round", action="store_const", const="tries", default="development")
    rounds.add_argument("--final", dest="round", action="store_const", const="final")
    parser.add_argument("--draws", type=int)
    parser.add_argument("--data", nargs="+", choices=DATA)
    parser.add_argument("--features", nargs="+", choices=FEATURES)
    parser.add_argument("--heads", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--counts", nargs="+", type=int, default=[*COUNTS])
    parser.add_argument("--correct", nargs="+", choices=SETTINGS, default=[], metavar="HEAD", help="of a final score")
    parser.add_argument("--weights", type=Path, default=NANO.own_weights, help="of nano: another training's")
    parser.add_argument("--folder", type=Path, help="where runs are kept, to go on later")
    asked = parser.parse_args()
    draws, data, features = DRAWS, list(DATA), list(FEATURES)
    if asked.round == "tries":
        draws, data, features = TUNED_DRAWS, [TUNED_ON], list(TUNED_FEATURES)
    if asked.round == "tries" and not {*(asked.features or [])} <= {*features}:
        parser.error(f"settings are tried on {' and '.join(features)}: --tune takes no other --features")
    asked.draws, asked.data, asked.features = asked.draws or draws, asked.data or data, asked.features or features
    # What is of fewer draws or of other weights is kept beside, so that it does not stand for what is asked here.
    asked.whole = (asked.draws, asked.counts, asked.weights) == (draws, [*COUNTS], NANO.own_weights)
    if asked.correct and asked.round != "final":
        parser.error("only final scores are kept from being made again: --correct goes with --final")
    if asked.round == "final" and not asked.whole:
        parser.error("the final subjects are scored once: --final takes all draws, both counts and the own weights")
    return asked


def _read(name: str) -> dict[str, Any]:
    file = RESULTS / f"{name}.json"
    kept: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return kept


def chosen(head: str, asked: argparse.Namespace) -> Setting:
    """Return the setting with the best mean Dice over counts and draws among those that `--tune` tried: all of them.

    Raises
    ------
    SystemExit
        When one was not tried as the head is, with these views, and, where those that ship are scored, these weights.
    """
    settings = SETTINGS[head]
    if len(settings) == 1:
        return settings[0]
    kept = _read("few_shot_tries")
    tries: dict[str, Any] = kept.get(TUNED_ON, {})
    same_views = kept.get("views") == VIEWS
    same_weights = kept.get("weights_sha256") == file_sha256(asked.weights) or not asked.whole
    features = next(one for one in TUNED_FEATURES if head in HEADS[one])

    def reached(setting: Setting) -> float:
        found = tries.get(Fit(features=features, head=head, setting=setting).key)
        if found is None or found["revision"] != find_head(head).revision or not (same_views and same_weights):
            message = f"{head}, {setting}: not tried yet with these views and weights. First: few_shot.py --tune"
            raise SystemExit(message)
        return statistics.mean(statistics.mean(found[str(count)]["dice"]) for count in COUNTS)

    return max(settings, key=reached)


def fits(features: str, asked: argparse.Namespace) -> list[Fit]:
    """Return what is trained on a kind of features."""
    return [
        Fit(features=features, head=head, setting=setting)
        for head in HEADS[features]
        if head in asked.heads
        for setting in (SETTINGS[head] if asked.round == "tries" else (chosen(head, asked),))
    ]


@contextmanager
def _folder(asked: Path | None) -> Iterator[Path]:
    if asked is not None:
        yield asked
        return
    with tempfile.TemporaryDirectory(dir=os.environ.get("SAMKIT_BENCH_FOLDER")) as name:
        yield Path(name)


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """One dataset in one round."""

    data: str
    workspace: Workspace
    split: Split
    asked: argparse.Namespace

    @classmethod
    def of(cls, folder: Path, data: str, asked: argparse.Namespace) -> Self:
        """Ingest the round's subjects; those that are there already are left as they are."""
        subjects = SUBJECTS[data]
        pool, test = subjects["development_drawn"], subjects["development_scored"]
        if asked.round == "final":
            pool, test = [*pool, *test], subjects["final"]
        split = Split(
            name="final" if asked.round == "final" else "development",
            seed=0,
            pool=tuple(sorted(pool)),
            test=tuple(sorted(test)),
        )
        # One for each round: a labelled subject that is neither drawn from nor scored would join the pool.
        place, source = folder / split.name, folder / f"{split.name}-source"
        for file in DATA[data].rglob("*.*"):
            link = source / file.relative_to(DATA[data])
            if file.name.split("_frame")[0].split(".")[0] in {*pool, *test} and not link.exists():
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(file.resolve())
        cost_of([*SAMKIT, "ingest", source, "--workspace", place, *INGEST[data]])
        workspace = open_workspace(place)
        assert workspace.labelled_subjects == {*pool, *test}
        return cls(data=data, workspace=workspace, split=workspace.keep_split(split), asked=asked)

    def scores(self, fit: Fit) -> dict[str, Any]:
        """Train and score a head with a setting; return all numbers."""
        embeddings = self.embedded(fit.features)
        cells = {count: self.cells(fit, count) for count in self.asked.counts}
        self.train(embeddings, [options for each in cells.values() for options in each])
        found = {str(count): self.scored(embeddings, options) for count, options in cells.items()}
        told = [f"{_spread(one['dice'])} | {one['by_class']}" for one in found.values()]
        say(" | ".join([self.data, fit.key, *told]))
        if embeddings is None:  # whether what begins from nothing had the steps that it needs
            for count, one in found.items():
                say(f"{self.data} | {fit.key} | loss from {counted(int(count), 'subject')}: {one['loss']}")
        return {fit.key: {"revision": find_head(fit.head).revision, "scored_by": this_machine(), **found}}

    def boxes(self, features: str) -> dict[str, Any]:
        """Return the Dice of box prompts on features of `nano`, nothing trained, and of the ellipses in the boxes."""
        embeddings = self.embedded(features)
        assert embeddings is not None
        boxes, ellipses = box_dice(self.workspace, embeddings, self.asked.weights, self.split.test)
        say(f"{self.data} | {features} | box prompts, no labelled subject: Dice of each class {_means(boxes)}")
        say(f"{self.data} | the ellipses in these boxes {_means(ellipses)}")
        return {f"{features} boxes": boxes, "ellipses": ellipses}

    def embedded(self, features: str) -> Embeddings | None:
        """Embed what is scored as it is, and what is drawn in all views; nothing for a head that sees slices."""
        if features == "none":
            return None
        present = {volume.subject for volume in self.workspace.volumes.values()}
        most = max(self.asked.counts)
        draws = [draw_subjects(self.split, most, number, present) for number in range(self.asked.draws)]
        drawn = sorted({subject for draw in draws for subject in draw.subjects})
        scored = [key for volume in labelled_volumes(self.workspace, self.split.test) for key in volume.row_keys()]
        trained = [key for volume in labelled_volumes(self.workspace, drawn) for key in volume.row_keys()]
        wanted = scored + [replace(key, view=view) for view in BANK.texts for key in trained]
        encoder: Encoder = RawPixels()
        if features != "pixels":
            weights = self.asked.weights if features.startswith("nano") else None
            encoder = NANO.load(weights, size=FEATURES[features], precision="auto")
        return embed_all(self.workspace, encoder, None, wanted=wanted).embeddings

    def cells(self, fit: Fit, count: int) -> list[TrainOptions]:
        """Return the runs of a head with so many subjects: one a draw."""
        return [
            TrainOptions(
                head=fit.head,
                subjects=count,
                draw=draw,
                split=self.split.name,
                fit=fit.setting.options,
                views=fit.setting.views,
            )
            for draw in range(self.asked.draws)
        ]

    def train(self, embeddings: Embeddings | None, cells: Sequence[TrainOptions]) -> None:
        """Train the runs that are not there yet."""
        todo = [options for options in cells if self.run_id(embeddings, options) not in self.workspace.runs]
        recipe_id = None if embeddings is None else embeddings.recipe.id
        for options, reason in train_cells(self.workspace.path, [(one, recipe_id) for one in todo], WORKERS):
            if reason is not None:
                message = f"{options.head}: {reason}"
                raise RuntimeError(message)

    def run_id(self, embeddings: Embeddings | None, options: TrainOptions) -> str:
        """Return what a run is called."""
        return plan_run(self.workspace, embeddings, find_head(options.head), options).settings.run_id

    def scored(self, embeddings: Embeddings | None, cells: Sequence[TrainOptions]) -> dict[str, Any]:
        """Return what the draws of a head scored."""
        runs = [self.workspace.runs[self.run_id(embeddings, options)] for options in cells]
        scored = [[ScoredVolume.from_json(volume) for volume in run.scores] for run in runs]
        by_draw = [mean_by_class(volumes) for volumes in scored]
        # A run may be older than this sitting.
        code = sorted({f"{run.record['code_version']}, torch {run.record['torch_version']}" for run in runs})
        return {
            "dice": [_rounded(mean_over_classes(volumes).dice) for volumes in scored],
            "dice_by_subject": dice_grid(scored, sorted(self.split.test)).round(4).tolist(),
            "trained_by": code,
            "by_class": {
                name: _rounded(over_draws([means[name].dice for means in by_draw], measure="dice").mean)
                for name in self.workspace.label_names.values()
            },
            "fitting_seconds": statistics.mean(run.record["seconds"]["fitting"] for run in runs),
            "loss": [_curve(run) for run in runs],
        }


def _rounded(value: float | None) -> float:
    assert value is not None  # these subjects have every class
    return round(value, 4)


def _curve(run: Run) -> list[tuple[int, float]]:
    """Return (last step, mean loss) of each tenth of a run."""
    tenths = np.array_split(np.array([step["loss"] for step in run.steps]), 10)
    ends = np.cumsum([len(tenth) for tenth in tenths])
    return [(int(end), round(float(tenth.mean()), 4)) for end, tenth in zip(ends, tenths, strict=True) if len(tenth)]


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.3f} ({min(values):.2f} to {max(values):.2f})"


def _means(by_class: dict[str, float]) -> str:
    parts = ", ".join(f"{name} {value:.2f}" for name, value in by_class.items())
    return f"{statistics.mean(by_class.values()):.3f} ({parts})"


if __name__ == "__main__":
    main()
