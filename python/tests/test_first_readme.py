"""The example of the first README, as it was written."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import PATIENCE

from httppubsub import _binary, testing

HERE = Path(__file__).parent

DIGEST = (
    "896c0a3bfed197dc92f9e0096b846bccb422d95d7b2aa3c45e5d57157b03779f"
    "b0b52377b38f4e7bd160926ab655a3db70ab73d70e19f804e90df60a883c39d2"
)

# The address that the example is reached at is one of documentation, which only a network of its
# own can have.
SET_UP = "ip link set lo up && ip addr add 192.0.2.0/32 dev lo"


def test_the_readme_is_the_one_that_was_written() -> None:
    content = (HERE / "first-readme.md").read_bytes()
    assert hashlib.sha512(content).hexdigest() == DIGEST


def why_not() -> str | None:
    if not (shutil.which("unshare") and shutil.which("ip")):
        return "unshare or ip is missing"
    tried = subprocess.run(
        ["unshare", "-rn", "sh", "-c", SET_UP], capture_output=True, check=False, text=True
    )
    return None if tried.returncode == 0 else f"no network namespace: {tried.stderr.strip()}"


@pytest.mark.parametrize("way", ["messages", "silence"])
def test_the_example_runs(way: str, tmp_path: Path) -> None:
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    binary = os.environ.get(testing.BINARY_VARIABLE) or _binary.find_binary()
    done = subprocess.run(
        ["unshare", "-rn", "sh", "-c", f'{SET_UP} && exec "$@"', "-", sys.executable]
        + ["-X", "dev", "-W", "error", str(HERE / "first_readme_stage.py"), way],
        cwd=tmp_path,
        env={**os.environ, testing.BINARY_VARIABLE: binary},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    said = [line for line in lines if line.startswith(("Received", "Timed", "Been", "Notified"))]
    received = "Received message on b'foo/bar': hello"
    # Its last loop ends with silence only.
    silence = "Been 5 seconds without a message! Ending early"
    if way == "messages":
        notified = "Notified 1 subscribers to foo/baz"
        assert said == [*[received] * 5, silence, notified, notified]
    else:
        notified = "Notified 0 subscribers to foo/baz"
        timed_out = "Timed out waiting for message"
        assert said == [*[received] * 3, timed_out, silence, notified, notified]
    assert done.stderr == ""
