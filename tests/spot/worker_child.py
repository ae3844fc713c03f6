"""A process with a watcher, for tests: it prints what it sees, and does what its input says.

Orders: `drained`, `fork` (a child that outlives this process), `close`. It ends with its input.
With `--drain` it is drained as soon as it is told of the end.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from overnight.spot.notice import NoticeWatcher

if TYPE_CHECKING:
    from overnight.spot.notice import Notice

_print = threading.Lock()


def say(**what: Any) -> None:
    with _print:
        sys.stdout.write(json.dumps(what) + "\n")
        sys.stdout.flush()


def on_notice(notice: Notice) -> None:
    say(notice=asdict(notice))
    if "--drain" in sys.argv:
        watcher.drained()


def report() -> None:
    last = None
    while True:
        state = watcher.state()
        if state != last:
            say(state=asdict(state))
            last = state
        time.sleep(0.01)


watcher = NoticeWatcher(on_notice=on_notice)
watcher.start()
threading.Thread(target=report, daemon=True).start()
for line in sys.stdin:
    if line.strip() == "drained":
        watcher.drained()
    elif line.strip() == "close":
        watcher.close()
    elif line.strip() == "fork":
        child = os.fork()
        if child == 0:
            os.close(0)
            os.close(1)
            time.sleep(120)
            os._exit(0)
        say(forked=child)
