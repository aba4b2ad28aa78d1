"""The table as papers print it: a line a head, a column a class, in Markdown or LaTeX."""

from __future__ import annotations

from collections.abc import Sequence

from tabulate import tabulate as lay_out

from .table import ALL_CLASSES, Row, several_recipes

_STYLES = {"markdown": "github", "latex": "latex_booktabs"}
PAPER_FORMATS = tuple(_STYLES)


def paper_table(rows: Sequence[Row], style: str) -> str:
    """Return Dice of each class and of all, mean and standard deviation over draws in percent, and the distances.

    Distances are means over what has one; beside them is how many volumes and classes had none because nothing was
    found.

    Parameters
    ----------
    rows
        As `table.tabulate` gives them.
    style
        ``markdown``, or ``latex``: a tabular with booktabs' rules.
    """
    classes = list(dict.fromkeys(row.class_name for row in rows if row.class_name != ALL_CLASSES))
    groups: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in rows:
        groups.setdefault(row.run_ids, {})[row.class_name] = row
    several = several_recipes(rows)
    units = {row.distance_unit for row in rows}
    unit = units.pop() if len(units) == 1 else "mixed units"
    columns = ["labelled", "head", *(["encoder"] if several else [])]
    numbers = ["draws", *classes, "mean", "worst draw", f"HD95 {unit}", f"ASSD {unit}", "missed"]
    lines = []
    for group in groups.values():
        whole = group[ALL_CLASSES]
        told = f"{whole.encoder} {whole.recipe_id[:4]}" if whole.on_recipe else "-"
        encoder = [told] if several else []
        dice = [_percent(group[name]) if name in group else "-" for name in [*classes, ALL_CLASSES]]
        distances = ["-" if one.mean is None else f"{one.mean:.1f}" for one in (whole.hd95, whole.assd)]
        worst = "-" if whole.dice.worst is None else f"{100 * whole.dice.worst:.1f}"
        missed = f"{whole.prediction_empty}"
        lines.append([whole.amount, whole.told_head, *encoder, whole.told_draws, *dice, worst, *distances, missed])
    sides = ["left"] * len(columns) + ["right"] * len(numbers)
    # Numbers are ready to be read: the library would write 90.0 as 90.
    return lay_out(lines, [*columns, *numbers], tablefmt=_STYLES[style], disable_numparse=True, colalign=sides) + "\n"


def _percent(row: Row) -> str:
    mean, spread = row.dice.mean, row.dice.standard_deviation
    if mean is None:
        return "-"
    return f"{100 * mean:.1f}" if spread is None else f"{100 * mean:.1f} ± {100 * spread:.1f}"
