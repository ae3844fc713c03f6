"""What runs inside vLLM's own process: the executor, on a leash. Imported there only.

vLLM's engine core goes on for ever when the process that started it is killed without a
word, and keeps the accelerator's memory: the next engine on that machine cannot start.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading

from vllm.platforms import current_platform  # noqa: TID253 - vLLM imports this module
from vllm.v1.executor.uniproc_executor import UniProcExecutor  # noqa: TID253 - vLLM imports this


class LeashedExecutor(UniProcExecutor):
    """Computes in the engine core's process itself, which dies with its parent.

    vLLM's default on CPU is one more process for the arithmetic; on two cores, three busy
    processes get in each other's way.
    """

    def _init_executor(self) -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            threading.Thread(
                target=_die_with, args=(parent,), name="overnight-leash", daemon=True
            ).start()
        if current_platform.is_cpu():
            # Registers kernels when it is imported, which only makes sense here.
            from overnight.engines.vllm_cpu import use_fused_kernels

            use_fused_kernels(self.vllm_config)
        super()._init_executor()


def _die_with(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os.kill(os.getpid(), signal.SIGKILL)
