"""Watching for the notice that this machine will be taken away, whoever gives it.

A worker starts one watcher. Of all watchers on a machine only one asks the cloud's metadata
service (`poller`); all look at the machine's notice file, where `overnight node` and any other
program can announce the end, and at the file of `OVERNIGHT_NOTICE=file:/path`. Where there is
no cloud to ask, nobody is asked. What is configured is described in `config`, the files in
`file` and `machine`.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from overnight.errors import ConfigError
from overnight.spot.config import NoticeConfig
from overnight.spot.ec2 import ADDRESS as EC2_ADDRESS
from overnight.spot.ec2 import Ec2
from overnight.spot.file import NoticeFile
from overnight.spot.gce import ADDRESS as GCE_ADDRESS
from overnight.spot.gce import Gce
from overnight.spot.machine import CloudState, Machine
from overnight.spot.poller import SharedPoller
from overnight.spot.types import Notice, WatcherState

if TYPE_CHECKING:
    from collections.abc import Callable

    from overnight.spot.poller import Cloud

__all__ = ["Notice", "NoticeConfig", "NoticeWatcher", "WatcherState"]

_log = logging.getLogger(__name__)
_LOOK_S = 1.0
_CLOSE_TIMEOUT_S = 10.0


class NoticeWatcher:
    """Watches in a thread of its own; every method may be called from any thread.

    Args:
        on_notice: called with each notice that is graver than all before it, from the
            watcher's thread; what it raises is logged.
        config: what is watched; from the environment by default.
        poll_s: seconds between two questions to the cloud; the configuration's by default.
        clock: Unix seconds.
        monotonic: seconds that only grow.

    Raises:
        ConfigError: if the environment's settings are wrong.
    """

    def __init__(
        self,
        *,
        on_notice: Callable[[Notice], None],
        config: NoticeConfig | None = None,
        poll_s: float | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._on_notice = on_notice
        self._config = NoticeConfig.from_env() if config is None else config
        self._poll_s = self._config.poll_s if poll_s is None else poll_s
        if self._poll_s <= 0:
            raise ConfigError(f"poll_s is {self._poll_s:g}: it has to be more than 0 seconds")
        self._clock = clock
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._state = WatcherState(None, None, None, None)
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._errors: set[str] = set()
        self._pid = os.getpid()
        # Set by the thread; no lock is needed to replace a reference.
        self._machine: Machine | None = None
        self._poller: SharedPoller | None = None
        self._files: list[NoticeFile] = []
        self._cloud_name: str | None = None
        self._directory_error: str | None = None
        self._drained = False

    def start(self) -> None:
        """Begin to watch; returns at once. Without effect if it was started or closed before."""
        with self._lock:
            if self._config.mode == "off" or self._thread is not None or self._stop.is_set():
                return
            self._thread = threading.Thread(target=self._run, name="overnight-notices", daemon=True)
        self._thread.start()

    def state(self) -> WatcherState:
        """What is watched, when it was last looked at, and what it told."""
        with self._lock:
            return self._state

    def notice(self) -> Notice | None:
        """The gravest so far: an interruption beats a rebalance, the earliest deadline wins."""
        return self.state().last_notice

    def drained(self) -> None:
        """Say that this process has nothing left to lose: `overnight node` stops waiting for it."""
        with self._lock:
            self._drained = True
            machine = self._machine
        if machine is not None:
            self._mark_drained(machine)

    def close(self) -> None:
        """Stop watching; another process of the machine goes on in this one's place."""
        self._stop.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(_CLOSE_TIMEOUT_S)

    def _run(self) -> None:
        try:
            self._set_up()
            while not self._stop.is_set():
                try:
                    self._look()
                except Exception:  # noqa: BLE001 - one bad look must not end the watching
                    self._say_once("the watcher for notices failed", trace=True)
                self._stop.wait(min(_LOOK_S, self._poll_s))
        finally:
            if self._machine is not None and os.getpid() == self._pid:
                self._machine.unmark("worker", "drained", pid=self._pid)
                self._machine.resign()

    def _set_up(self) -> None:
        machine = self._open_machine()
        if self._config.file is not None:
            self._files.append(NoticeFile(self._config.file, clock=self._clock))
        if machine is not None:
            self._files.append(NoticeFile(machine.notice_file, clock=self._clock))
        cloud = self._cloud()
        if cloud is not None:
            self._poller = SharedPoller(
                cloud, machine, poll_s=self._poll_s, clock=self._clock, monotonic=self._monotonic
            )
        with self._lock:
            self._machine = machine
            drained = self._drained
        if drained and machine is not None:
            self._mark_drained(machine)
        _log.info(
            "notices: watching %s; notice files: %s",
            self._cloud_name or "no cloud",
            ", ".join(str(file.path) for file in self._files) or "none",
        )

    def _open_machine(self) -> Machine | None:
        try:
            machine = Machine.open(self._config.machine_directory)
            machine.mark("worker")
        except (ConfigError, OSError) as error:
            # The cloud can be asked without it, if by every process for itself.
            self._directory_error = str(error)
            self._say_once(f"notices are not shared on this machine: {error}")
            return None
        return machine

    def _cloud(self) -> Cloud | None:
        config = self._config
        self._cloud_name = config.cloud
        if self._cloud_name == "ec2":
            endpoint = config.ec2_endpoint or EC2_ADDRESS
            return Ec2(endpoint, clock=self._clock, monotonic=self._monotonic)
        if self._cloud_name == "gce":
            endpoint = config.gce_endpoint or GCE_ADDRESS
            return Gce(endpoint, every_s=self._poll_s, clock=self._clock)
        return None

    def _look(self) -> None:
        found: list[Notice] = []
        errors = [self._directory_error]
        for file in self._files:
            look = file.look()
            found += look.notices
            errors.append(look.error)
            if look.error is not None:
                self._say_once(f"this is no notice: {look.error}")
        # Files first: the cloud may take a while to answer.
        self._heed(found)
        cloud = CloudState() if self._poller is None else self._poller.look()
        self._heed([] if cloud.notice is None else [cloud.notice])
        self._show(cloud, [cloud.error, cloud.idle, *errors])

    def _show(self, cloud: CloudState, errors: list[str | None]) -> None:
        sources: list[str] = []
        if self._cloud_name is not None and cloud.idle is None:
            sources.append(self._cloud_name)
        if self._config.file is not None:
            sources.append(f"file:{self._config.file}")
        if self._machine is not None and self._machine.marked("node"):
            sources.append("sigterm")
        last_poll = cloud.last_poll
        if self._poller is None and sources:
            last_poll = self._clock()
        error = "; ".join(text for text in errors if text) or None
        source = ", ".join(sources) or None
        with self._lock:
            self._state = replace(self._state, source=source, last_poll=last_poll, error=error)

    def _heed(self, notices: list[Notice]) -> None:
        for notice in notices:
            with self._lock:
                if not notice.graver_than(self._state.last_notice):
                    continue
                self._state = replace(self._state, last_notice=notice)
            _log.warning("notice (%s): %s", notice.kind, notice.detail)
            try:
                self._on_notice(notice)
            except Exception:  # noqa: BLE001 - it is the caller's code, and may raise anything
                _log.exception("the reaction to a notice failed")

    def _mark_drained(self, machine: Machine) -> None:
        try:
            machine.mark("drained")
        except OSError as error:
            _log.warning("nobody can be told that this worker is drained: %s", error.strerror)

    def _say_once(self, text: str, *, trace: bool = False) -> None:
        if text not in self._errors:
            self._errors.add(text)
            _log.warning("%s (this is said once)", text, exc_info=trace)
