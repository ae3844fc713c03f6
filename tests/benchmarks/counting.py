"""vLLM's executor, counting the tokens that it computes: a byte each in `OVERNIGHT_COMPUTED`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from overnight.engines.vllm_core import LeashedExecutor


class Counting(LeashedExecutor):
    """Runs in the engine core's process."""

    def _init_executor(self) -> None:
        super()._init_executor()
        self._computed = Path(os.environ["OVERNIGHT_COMPUTED"]).open("ab", buffering=0)  # noqa: SIM115

    def execute_model(self, *arguments: Any, **options: Any) -> Any:
        """As vLLM's."""
        return self._counted(super().execute_model(*arguments, **options))

    def sample_tokens(self, *arguments: Any, **options: Any) -> Any:
        """As vLLM's."""
        return self._counted(super().sample_tokens(*arguments, **options))

    def _counted(self, output: Any) -> Any:
        if hasattr(output, "add_done_callback"):
            output.add_done_callback(lambda done: self._count(done.result()))
        else:
            self._count(output)
        return output

    def _count(self, output: Any) -> None:
        tokens = getattr(output, "sampled_token_ids", None)
        if tokens is not None:
            self._computed.write(b"." * sum(len(row) for row in tokens))
