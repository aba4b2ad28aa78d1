"""A real S3 server on loopback, in a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec

from samkit.store import remote

SECONDS_TO_START = 60.0
_STARTED = re.compile(r"Running on (http://127\.0\.0\.1:\d+)\s")

#: What s3fs and boto read; the server takes any key.
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
}


@contextmanager
def s3_server(log: Path) -> Iterator[str]:
    """Run moto's server on a free port and give its address; every request is a line of ``log``."""
    # A port of the server's own choosing: one that was looked for before it started can be taken meanwhile, and a
    # connection to one where nobody listens can be answered by itself.
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    with log.open("wb") as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
        try:
            until = time.monotonic() + SECONDS_TO_START
            while (started := _STARTED.search(log.read_text(errors="replace"))) is None:
                assert process.poll() is None, log.read_text(errors="replace")
                assert time.monotonic() < until, "the S3 server did not start"
                time.sleep(0.05)
            # A process keeps the file systems it has made, and one of an earlier server knows only that one's address.
            remote._file_system.cache_clear()
            fsspec.get_filesystem_class("s3").clear_instance_cache()
            yield started[1]
        finally:
            process.kill()
            process.wait()
