"""On a terminal something is shown at once, and taken away by the first message; a pipe gets the messages alone."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

COMMAND = [sys.executable, "-m", "samkit.pipeline.cli"]


def on_a_terminal(*words: str) -> str:
    """What a command writes to a terminal, with what moves its cursor."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm"}
    with subprocess.Popen([*COMMAND, *words], stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        written = b""
        while process.poll() is None or written[-1:] != b"":
            try:
                part = os.read(ours, 4096)
            except OSError:  # the other end is closed
                break
            written += part
            if not part:
                break
    os.close(ours)
    return written.decode()


def test_a_terminal_shows_the_verb_before_its_libraries_are_there():
    shown = on_a_terminal("report", "--workspace", "nowhere")
    assert shown.index("samkit report") < shown.index("error:")


def test_what_was_shown_is_taken_away_by_the_first_message():
    erased = "\x1b[2K"
    before, _, after = on_a_terminal("report", "--workspace", "nowhere").partition("error:")
    assert erased in before
    assert erased not in after


def test_a_quiet_terminal_shows_nothing_before():
    assert on_a_terminal("--quiet", "report", "--workspace", "nowhere").lstrip("\x1b[0123456789;m").startswith("error:")


def test_a_pipe_gets_the_message_alone(tmp_path: Path):
    ended = subprocess.run(
        [*COMMAND, "report", "--workspace", "nowhere"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert (ended.stdout, ended.stderr.startswith("error:")) == ("", True)
