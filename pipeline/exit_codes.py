"""What samkit leaves with, for scripts."""

from __future__ import annotations

DONE = 0
#: Nothing was done, or it could not be finished.
FAILED = 1
WRONG_USAGE = 2
#: Done, but some items were refused or failed; they are listed with reasons.
SOME_FAILED = 3
#: Ctrl-C, as shells count it.
INTERRUPTED = 130
