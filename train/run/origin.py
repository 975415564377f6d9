"""Where a run comes from: code, command and machine, for its setup.json."""

from __future__ import annotations

import contextlib
import datetime
import functools
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import tensorflow as tf

CLONE = Path(__file__).parents[2]


def start() -> dict[str, Any]:
    """Of one start: `date` (UTC), `command`, and of a clone `commit` and `uncommitted_changes`."""
    of_train = Path(sys.argv[0]).parts[-2:] == ("train", "__main__.py")
    program = ["python", "-m", "train"] if of_train else sys.argv[:1]
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join([*program, *sys.argv[1:]]),
        **code(CLONE),
    }


@functools.cache
def code(clone: Path) -> dict[str, Any]:
    """`commit` and `uncommitted_changes` of a clone; empty where there is none, or no git."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(clone), *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    with contextlib.suppress(OSError, subprocess.SubprocessError):
        # A copy without .git may lie in somebody's own repository.
        if Path(git("rev-parse", "--show-toplevel")).samefile(clone):
            changes = git("status", "--porcelain")
            return {"commit": git("rev-parse", "HEAD"), "uncommitted_changes": bool(changes)}
    return {}


def hardware() -> dict[str, Any]:
    """`processor`, `cpus` that this process may use, and the accelerators among `devices`."""
    details = tf.config.experimental.get_device_details
    return {
        "processor": _processor(),
        "cpus": len(os.sched_getaffinity(0)),
        "devices": [
            f"{device.device_type} {details(device).get('device_name', '')}".strip()
            for device in tf.config.list_physical_devices()
        ],
    }


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()
