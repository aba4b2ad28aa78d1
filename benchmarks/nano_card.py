"""The card of the embedded encoder's proof: what `few_shot.py` measured, as it stands in stages/encoders/nano.md.

nano_card.py         write it
tests/test_readme.py compares it
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from samkit.heads.base import find_head
from samkit.heads.comparison import bootstrap

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
CARD = ROOT / "stages" / "encoders" / "nano.md"
BEGIN, END = "<!-- made by benchmarks/nano_card.py from benchmarks/results: begin -->", "<!-- end -->"
ROUNDS = ("development", "final")
TRIES = "tries"
DATA = ("acdc", "hippocampus")
COUNTS = ("1", "5")
NOTHING_TO_CHOOSE = ", one pass"
NAMES = {
    "nano": "`nano`",
    "nano-512": "`nano --size 512`",
    "seeded": "the same, numbers from a seed",
    "pixels": "the pixels themselves",
    "none": "none",
}


def main() -> None:
    """Put the section into the card."""
    CARD.write_text(with_proof(CARD.read_text(encoding="utf-8")), encoding="utf-8")


def with_proof(text: str) -> str:
    """Return a card whose section on what was measured is made anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{proof()}\n\n{END}{after}"


def proof() -> str:
    """Return the section, Markdown; a round that was not measured is left out."""
    rounds = {name: kept(name) for name in kept_rounds()}
    if not rounds:
        return "Not measured yet with these weights; the tries below are what is known of them."
    parts = [
        part
        for data in DATA
        if any(data in told for told in rounds.values())
        for part in (
            _heads(data, rounds),
            *_superseded(data, rounds),
            *_beside(data, rounds),
            *_curves(data, rounds),
            *_boxes(data, rounds),
        )
    ]
    return "\n\n".join([*parts, *_larger(), *_tries(rounds)])


def kept_rounds() -> list[str]:
    """Return the rounds that were scored; the tries where there is no other yet."""
    there = [name for name in (*ROUNDS, TRIES) if (RESULTS / f"few_shot_{name}.json").exists()]
    return [name for name in there if name != TRIES or there == [TRIES]]


def kept(name: str) -> dict[str, Any]:
    """Return what was measured in a round."""
    found: dict[str, Any] = json.loads((RESULTS / f"few_shot_{name}.json").read_text(encoding="utf-8"))
    return found


def _heads(data: str, rounds: dict[str, Any]) -> str:
    columns = [f"{name}, {count}" for name in rounds for count in COUNTS]
    lines = [
        f"**{data}**, mean Dice % from one labelled subject and from five, mean (least to most) of the draws:",
        "",
        f"| features | head | {' | '.join(columns)} |",
        f"|---|---|{'---|' * len(columns)}",
    ]
    runs = dict.fromkeys(
        key for told in rounds.values() for key in told.get(data, {}) if not key.endswith(("boxes", "ellipses"))
    )
    for key in runs:
        features, name, setting = _named(key)
        scored = [told.get(data, {}).get(key) for told in rounds.values()]
        cells = [
            "" if one is None else _percent(one[count]["dice"]) + _earlier(name, one)
            for one in scored
            for count in COUNTS
        ]
        lines.append(f"| {NAMES[features]} | `{name}`, {setting} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _superseded(data: str, rounds: dict[str, Any]) -> Iterator[str]:
    """Tell what final subjects were scored by before it was corrected."""
    for key, earlier in rounds.get(ROUNDS[1], {}).get("superseded", {}).get(data, {}).items():
        features, name, setting = _named(key)
        for one in earlier:
            means = " and ".join(f"{100 * statistics.mean(one[count]['dice']):.1f}" for count in COUNTS)
            yield (
                f"Scored on final subjects of {data} before it was corrected: `{name}` on {NAMES[features]}, "
                f"{setting}, by its revision {one['revision']}, had {means}."
            )


def _beside(data: str, rounds: dict[str, Any]) -> Iterator[str]:
    """Tell how far the best head on each kind of features lies from what sees none, and from one on untrained ones.

    Which is the best is read from the development round, on the final subjects too.
    """
    judged = _by_features(rounds.get(ROUNDS[0], {}).get(data, {}))
    best = {features: max(keys, key=keys.__getitem__) for features, keys in judged.items()}
    # Each with what begins from nothing, and what was trained with the same architecture untrained.
    pairs = [(features, "none") for features in best if features != "none"] + [("nano", "seeded")]
    for name, told in rounds.items():
        scored = told.get(data, {})
        for features, other in pairs:
            key, without = best.get(features), best.get(other)
            if key is None or without is None or not {key, without} <= scored.keys():
                continue
            amounts = "; ".join(
                f"from {counted}, {_difference(scored[key][count], scored[without][count])}"
                for count, counted in zip(COUNTS, ("one subject", "five"), strict=True)
            )
            beside = f"`{_named(without)[1]}`" + ("" if other == "none" else f" on {NAMES[other]}")
            yield (
                f"`{_named(key)[1]}` on {NAMES[features]} less {beside} ({data}, {name}), on the same draws and test "
                f"subjects, with the 95 % interval of other draws from this pool and other test subjects: {amounts}."
            )


def _by_features(scored: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return the mean Dice over counts and draws of each head, by features."""
    means: dict[str, dict[str, float]] = {}
    for key, one in scored.items():
        if "," in key:
            mean = statistics.mean(statistics.mean(one[count]["dice"]) for count in COUNTS)
            means.setdefault(_named(key)[0], {})[key] = mean
    return means


def _difference(one: dict[str, Any], other: dict[str, Any]) -> str:
    """Return the difference of two heads as `samkit report --compare` makes it, in points of Dice."""
    found = bootstrap(np.array(one["dice_by_subject"]) - np.array(other["dice_by_subject"]), within=(-1, 1))
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    return f"{100 * found.mean:+.1f} ({100 * found.low:+.1f} to {100 * found.high:+.1f})"


def _curves(data: str, rounds: dict[str, Any]) -> Iterator[str]:
    """Tell how the loss fell of what is trained from nothing: whether it was given the steps that it needs."""
    for name, told in rounds.items():
        for key, by_count in told.get(data, {}).items():
            features, head, setting = _named(key)
            if features != "none":
                continue
            by_amount = "; ".join(
                f"from {counted}, {', '.join(f'{loss:.2f}' for loss in _mean_curve(by_count[count]['loss']))}"
                for count, counted in zip(COUNTS, ("one subject", "five"), strict=True)
            )
            yield f"Loss of `{head}`, {setting} ({data}, {name}), mean of each tenth of the steps: {by_amount}."


def _larger() -> Iterator[str]:
    """Tell what twice the channels change in the U-Net."""
    file = RESULTS / "larger_unet.json"
    if not file.exists():
        return
    told: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    lines = [
        "Whether that U-Net is too lean, mean Dice % of development subjects of acdc, each draw of five subjects:",
        "",
        "| U-Net | parameters | setting | Dice % |",
        "|---|---|---|---|",
    ]
    for name, one in told.items():
        if name == "machine":
            continue
        dice = ", ".join(f"{100 * dice:.1f}" for dice in one["dice"])
        lines.append(f"| {name} | {one['parameters']:,} | {one['setting']} | {dice} |")
    yield "\n".join(lines)


def _tries(rounds: dict[str, Any]) -> Iterator[str]:
    """Tell what the settings were chosen from, where they are not the table already."""
    if TRIES in rounds or not (RESULTS / f"few_shot_{TRIES}.json").exists():
        return
    told = kept(TRIES)
    for data in DATA:
        tried = [
            (key, by_count, [f"{100 * statistics.mean(by_count[count]['dice']):.1f}" for count in COUNTS])
            for key, by_count in told.get(data, {}).items()
            if NOTHING_TO_CHOOSE not in key
        ]
        if tried:
            lines = [
                f"Settings tried, {data}, development, mean Dice % of {told['draws']} draws:",
                "",
                "| features | head | from one | from five |",
                "|---|---|---|---|",
            ]
            for key, by_count, cells in tried:
                features, name, setting = _named(key)
                setting += _earlier(name, by_count)
                lines.append(f"| {NAMES[features]} | `{name}`, {setting} | {' | '.join(cells)} |")
            yield "\n".join(lines)


def _earlier(head: str, scored: dict[str, Any]) -> str:
    """Tell where what was scored is not what the head computes by now."""
    return "" if scored["revision"] == find_head(head).revision else f", by its revision {scored['revision']}"


def _named(key: str) -> tuple[str, str, str]:
    """Return what a result is of: features, head, and how that was fitted."""
    features, _, head = key.partition(" ")
    name, _, setting = head.partition(", ")
    return features, name, setting


def _mean_curve(curves: list[list[tuple[int, float]]]) -> list[float]:
    return [statistics.mean(loss for _, loss in tenth) for tenth in zip(*curves, strict=True)]


def _boxes(data: str, rounds: dict[str, Any]) -> Iterator[str]:
    for name, told in rounds.items():
        for key, boxes in told.get(data, {}).items():
            features, what, _ = _named(key)
            if what != "boxes":
                continue
            ellipses = told[data]["ellipses"]
            by_class = ", ".join(f"{one} {100 * boxes[one]:.0f} ({100 * ellipses[one]:.0f})" for one in boxes)
            mean, beside = (100 * statistics.mean(one.values()) for one in (boxes, ellipses))
            yield (
                f"Box prompts to {NAMES[features]} on {name} subjects of {data}, each class alone, nothing trained: "
                f"Dice {mean:.1f} %, the ellipses inscribed in the boxes {beside:.1f} %. By class: {by_class}."
            )


def _percent(dice: list[float]) -> str:
    return f"{100 * statistics.mean(dice):.1f} ({100 * min(dice):.0f} to {100 * max(dice):.0f})"


if __name__ == "__main__":
    main()
