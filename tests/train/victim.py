"""A training that kills itself at a point: `python -m tests.train.victim POINT N fit ...`.

POINT is where, N the how-many-th time it comes by there, the rest a command of `python -m train`.
The points are those at which a kill could leave something half done.
"""

import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from train.__main__ import main
from train.parsing.start_up import load_tensorflow_quietly


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def ask_to_end() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def before(owner: Any, name: str, count: int, act: Callable[[], None]) -> None:
    """Makes the `count`-th call of a function act first."""
    function = getattr(owner, name)
    calls = 0

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == count:
            act()
        return function(*args, **kwargs)

    setattr(owner, name, counted)


def arm(point: str, count: int) -> None:
    """Puts the trap."""
    import tfweightmirror as tfwm
    from train.run import checkpoint, loop, resume, steps

    mirror = tfwm.callbacks.WeightMirror

    def soon() -> None:
        # From another thread, so that mirror mode is running when it comes.
        threading.Timer(0.05, kill).start()

    if point == "random":
        # From the end of the first call on, so that most attempts come further than the last; one
        # in five while the training begins.
        draw = random.Random(count)
        # Some must live through what takes seconds, such as the tracing of an epoch's end, and more
        # of them where other work makes everything slow: counted in eighths of what came before.
        delay = draw.uniform(0, 1 + count % 3) / 8
        begin = (loop.Loop, "run") if draw.random() < 0.2 else (resume.Training, "after_call")
        armed_s = time.monotonic()

        def later() -> None:
            threading.Timer(delay * (time.monotonic() - armed_s), kill).start()

        before(*begin, 1, later)
        return
    owner, name, act = {
        "between_calls": (resume.Training, "after_call", kill),
        "sigterm": (resume.Training, "after_call", ask_to_end),
        "variables_written": (checkpoint, "rename_on_disk", kill),
        "before_rename": (Path, "rename", kill),
        "old_ones_removed": (checkpoint.shutil, "rmtree", kill),
        "in_mirror_mode": (mirror, "_run", soon),
        "in_evaluation": (steps.Evaluation, "__call__", kill),
        "epoch_written": (resume.Training, "after_epoch", kill),
    }[point]
    before(owner, name, count, act)


if __name__ == "__main__":
    load_tensorflow_quietly()
    arm(sys.argv[1], int(sys.argv[2]))
    sys.exit(main(sys.argv[3:]))
