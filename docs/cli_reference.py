"""The reference of the command line, as its own help says it: docs/reference/cli.md.

cli_reference.py  write it
"""

from pathlib import Path

import typer
from typer.cli import get_docs_for_click

from samkit.pipeline.cli import app

PAGE = Path(__file__).with_name("reference") / "cli.md"


def reference() -> str:
    """Return the page, Markdown."""
    command = typer.main.get_command(app)
    text = get_docs_for_click(
        obj=command, ctx=typer.Context(command, info_name="samkit"), name="samkit", title="Command line"
    )
    return text.rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
