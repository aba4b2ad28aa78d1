"""What a suggested command needs so that it can be copied as it stands."""

from __future__ import annotations

import shlex

from ...store.places import DEFAULT_WORKSPACE


def workspace_flag(path: object) -> str:
    """Return the flag that finds a workspace, with a space before it: nothing for the default one."""
    return "" if str(path) == DEFAULT_WORKSPACE else f" --workspace {shlex.quote(str(path))}"
