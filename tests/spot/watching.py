"""What the tests of notices share: waiting for a condition, recording, other processes."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from overnight.spot.notice import NoticeConfig, NoticeWatcher

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Self

    from overnight.spot.notice import Notice

ROOT = Path(__file__).parents[2]
POLL_S = 0.05
_NOT_OURS = ("OVERNIGHT_NOTICE", "AWS_EC2_METADATA", "GCE_METADATA")


def config_in(directory: Path, **variables: str) -> NoticeConfig:
    """A configuration from these variables alone, on a machine that is nobody's."""
    env = {"OVERNIGHT_NOTICE_DIR": str(directory / "machine"), "OVERNIGHT_NOTICE_POLL_S": "0.05"}
    return replace(NoticeConfig.from_env(env | variables), dmi=directory / "dmi")


class Recorder:
    """A watcher whose notices are kept in the order in which they were given."""

    def __init__(self, config: NoticeConfig, **options: Any) -> None:
        self.notices: list[Notice] = []
        self.threads: set[str] = set()
        self.watcher = NoticeWatcher(on_notice=self._record, config=config, **options)

    def _record(self, notice: Notice) -> None:
        self.threads.add(threading.current_thread().name)
        self.notices.append(notice)


@contextlib.contextmanager
def watching(config: NoticeConfig, **options: Any) -> Iterator[Recorder]:
    recorder = Recorder(config, **options)
    recorder.watcher.start()
    try:
        yield recorder
    finally:
        recorder.watcher.close()


def environment(**variables: str) -> dict[str, str]:
    """This process's, without its settings for notices."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_OURS)}
    return own | {"PYTHONPATH": f"{ROOT}:{ROOT / 'platform'}"} | variables


class Worker:
    """Another process with a watcher (`worker_child.py`); says what it sees in lines of JSON.

    `under` is a command that runs it as its child; `process` is then that command's.
    """

    def __init__(self, env: Mapping[str, str], *arguments: str, under: Sequence[str] = ()) -> None:
        program = [sys.executable, str(ROOT / "tests" / "spot" / "worker_child.py"), *arguments]
        self.process = subprocess.Popen(
            [*under, *program],
            env=dict(env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.said: list[dict[str, Any]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(json.loads(line))

    def tell(self, order: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(order + "\n")
        self.process.stdin.flush()

    def states(self) -> list[dict[str, Any]]:
        return [said["state"] for said in self.said if "state" in said]

    def notices(self) -> list[dict[str, Any]]:
        return [said["notice"] for said in self.said if "notice" in said]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
