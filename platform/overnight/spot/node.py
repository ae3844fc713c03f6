"""Running a container's program so that its workers learn of SIGTERM.

Kubernetes, ECS and AWS Batch announce the end of a container with SIGTERM, and only its first
process gets it. `overnight node` is that process: it runs the program as its child and passes
the notice on through the machine's notice file.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import subprocess
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from overnight.errors import ConfigError
from overnight.spot.config import NoticeConfig
from overnight.spot.machine import Machine
from overnight.spot.types import Notice

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_log = logging.getLogger(__name__)
_LOOK_S = 0.2
_IDLE_S = 5.0
_SIGNALLED = 128


def run(
    command: Sequence[str], *, grace_s: float = 30.0, config: NoticeConfig | None = None
) -> int:
    """Run a command until it ends; at SIGTERM let the workers on this machine drain first.

    The command gets SIGTERM as soon as all workers have said that they are drained, or a tenth
    of the grace (3 s at most) before its end, or at a second SIGTERM; and SIGKILL, with all of
    its process group, shortly before the grace ends. SIGINT is passed on as it is.

    Args:
        command: the program and its arguments.
        grace_s: seconds between SIGTERM and the machine's end.
        config: what the workers watch; from the environment by default.

    Returns:
        The command's exit status, or 128 and the number of the signal that ended it.

    Raises:
        ConfigError: if the command cannot be started, or its workers cannot be told anything.
    """
    config = NoticeConfig.from_env() if config is None else config
    machine = Machine.open(config.machine_directory)
    machine.forget_earlier_lives()
    try:
        machine.mark("node")
    except OSError as error:
        raise ConfigError(
            f"cannot write in {machine.path}: {error.strerror}; "
            "name another directory with OVERNIGHT_NOTICE_DIR"
        ) from error
    with _signals() as signals:
        try:
            # Its own session: what the terminal sends reaches the command once, from here.
            child = subprocess.Popen(command, start_new_session=True)  # noqa: S603 - the caller's
        except OSError as error:
            raise ConfigError(f"cannot run {command[0]!r}: {error.strerror}") from error
        try:
            return _Keeper(child, machine, grace_s).wait(signals)
        finally:
            machine.unmark("node", pid=os.getpid())


@dataclass
class _Keeper:
    child: subprocess.Popen[bytes]
    machine: Machine
    grace_s: float
    ends: float | None = field(default=None, init=False)
    hurried: bool = field(default=False, init=False)
    terminated: bool = field(default=False, init=False)

    def wait(self, signals: queue.SimpleQueue[int]) -> int:
        while self.child.poll() is None:
            self._take(signals)
            if self.ends is not None:
                self._wind_down(self.ends - time.monotonic())
            self._bury_orphans()
        status = self.child.returncode
        return status if status >= 0 else _SIGNALLED - status

    def _take(self, signals: queue.SimpleQueue[int]) -> None:
        try:
            number = signals.get(timeout=_IDLE_S if self.ends is None else _LOOK_S)
        except queue.Empty:
            return
        if number == signal.SIGINT:
            self.child.send_signal(signal.SIGINT)
        elif number == signal.SIGTERM:
            if self.ends is None:
                self.ends = time.monotonic() + self.grace_s
                self._announce()
            else:
                self.hurried = True

    def _announce(self) -> None:
        now = time.time()
        detail = f"this container got SIGTERM and has {self.grace_s:g} s left"
        notice = Notice("interruption", "sigterm", now + self.grace_s, now, detail)
        deadline = datetime.fromtimestamp(now + self.grace_s, UTC).isoformat()
        workers = len(self.machine.marked("worker"))
        _log.warning("%s: waiting for %d workers to drain", detail, workers)
        try:
            self.machine.announce(notice, deadline=deadline)
        except OSError as error:
            _log.warning("the workers cannot be told: %s", error.strerror)
            self.hurried = True

    def _wind_down(self, left_s: float) -> None:
        margin_s = min(3.0, self.grace_s / 10)
        if not self.terminated:
            drained = self.machine.marked("worker") <= self.machine.marked("drained")
            if drained or self.hurried or left_s <= margin_s:
                self.child.terminate()
                self.terminated = True
        elif left_s <= margin_s / 3:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.child.pid, signal.SIGKILL)

    def _bury_orphans(self) -> None:
        """The first process of a container inherits its orphans; the child is `Popen`'s."""
        while True:
            try:
                dead = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if dead is None or dead.si_pid == self.child.pid:
                return
            os.waitpid(dead.si_pid, 0)


@contextlib.contextmanager
def _signals() -> Iterator[queue.SimpleQueue[int]]:
    """The signals that come in, instead of what they did before."""
    came: queue.SimpleQueue[int] = queue.SimpleQueue()
    before = {
        number: signal.signal(number, lambda number, _: came.put(number))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)
    }
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
