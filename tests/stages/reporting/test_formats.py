"""The table as papers print it has a column for the encoder where there are several."""

from __future__ import annotations

from examples.table_rows import LINEAR, LINEAR_ON_ANOTHER, UNET

from samkit.stages.reporting.formats import paper_table


def cells(*rows) -> list[list[str]]:
    lines = paper_table(rows, "markdown").strip().splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "---" not in line]


def test_one_encoder_beside_a_head_without_one_needs_no_column():
    assert "encoder" not in cells(LINEAR, UNET)[0]


def test_a_head_without_an_encoder_has_none_in_the_column():
    columns, *heads = cells(LINEAR, LINEAR_ON_ANOTHER, UNET)
    assert [head[columns.index("encoder")] for head in heads] == ["nano d744", "sam_vit_b 0123", "-"]
