"""What tests do to vLLM, in its own process: make it slow, make a row deadly."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from overnight.engines.vllm_core import LeashedExecutor
from tests.support.summaries import KILLER, PACE, STARTS


class PacedExecutor(LeashedExecutor):
    """Takes as much longer for each step as a file says: see `summaries.Paced`."""

    def execute_model(self, *arguments: Any, **named: Any) -> Any:
        time.sleep(float(Path(os.environ[PACE]).read_text()))
        return super().execute_model(*arguments, **named)


class DeadlyExecutor(LeashedExecutor):
    """Is killed when a certain row is computed: see `summaries.Deadly`."""

    def _init_executor(self) -> None:
        from transformers import AutoTokenizer

        with Path(os.environ[STARTS]).open("ab") as starts:
            starts.write(b".")
        super()._init_executor()
        tokenizer = AutoTokenizer.from_pretrained(self.model_config.model)
        self._killer: list[int] = tokenizer(os.environ[KILLER])["input_ids"]

    def execute_model(self, scheduled: Any, *arguments: Any, **named: Any) -> Any:
        for row in scheduled.scheduled_new_reqs:
            # One that goes on has what it had generated behind its prompt.
            if row.prompt_token_ids[: len(self._killer)] == self._killer:
                os.kill(os.getpid(), signal.SIGKILL)
        return super().execute_model(scheduled, *arguments, **named)
