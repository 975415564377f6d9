"""Which pathways a train step need not teach: those on which no error travels."""

from collections.abc import Sequence

from tfweightmirror._internals.attendance import Attended
from tfweightmirror.mirror.mode import MirrorMode
from tfweightmirror.mirror.schedule import Schedule
from tfweightmirror.pathway import Pathway


class IdlePathways:
    """The pathways that mirror mode leaves out after a batch; `in` asks for one.

    They are known when a step has been traced. There are none where B remembers more than the last
    mirror step, since then all steps are to be heard, nor where mirror mode is not due after every
    batch.

    Args:
        pathways: All that mirror mode teaches.
        mode: How it listens.
        schedule: When it runs.
    """

    def __init__(
        self, pathways: Sequence[Pathway], mode: MirrorMode, schedule: Schedule | None
    ) -> None:
        self._pathways = pathways
        forgets = mode.norm == "decay" and all(mode.noise.plan(p).decay == 1.0 for p in pathways)
        self._wanted = forgets and schedule is not None and schedule.every_batches == 1
        self._kernels: set[int] = set()
        self._made = 0

    def __contains__(self, pathway: Pathway) -> bool:
        return id(pathway.feedback_kernel) in self._kernels

    def __bool__(self) -> bool:
        return bool(self._kernels)

    def find(self, attended: Attended, made: int) -> None:
        """Look for them in a step that has just been traced.

        Args:
            attended: What it has shown.
            made: How often the train step has been made anew, before which all are taught.

        Raises:
            ValueError: One of them is idle no longer, and its B is of the past.
        """
        if not self._wanted:
            return
        kernels = [p.feedback_kernel for p in self._pathways]
        idle = {id(kernel) for kernel in kernels if attended.is_idle(kernel)}
        for pathway in self._pathways if made == self._made else ():
            if pathway in self and id(pathway.feedback_kernel) not in idle:
                raise ValueError(
                    f"In the middle of a training an error has come to pass layer "
                    f"'{pathway.name}', whose feedback weights were not taught while none did. "
                    "Call model.make_train_function(force=True) where layers are frozen or "
                    "unfrozen, or pass WeightMirror(all_pathways=True)."
                )
        self._kernels, self._made = idle, made
