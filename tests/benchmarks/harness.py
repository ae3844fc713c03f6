"""What every benchmark needs: fresh processes, homes on a real disk, and a table of figures."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).parents[2]
_LINES_OF_STDERR = 40
_HEADINGS = ("figure", "ours", "peer", "ratio", "bound", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is measured with; the same for us and for every peer.

    Attributes:
        model: the directory of a text generation model whose prompts are those of the bundled
            summarizer.
        rows: rows of the partition that is compared with Ray Data LLM.
        runs: measured runs of each system; medians are reported.
        plumbing_rows: the small and the large partition through the trivial engine.
        max_tokens: tokens to generate for each row at most.
        speculative_tokens: tokens to guess ahead from the prompt.
        max_num_seqs: rows computed together.
        max_num_batched_tokens: tokens in one step.
        max_model_len: longest prompt and text together.
        kv_cache_gib: memory for attention on CPU.
        traces: a directory of spot traces; empty: where they usually are.
        partitions: days of the backfill.
        peers: how many of the backfill's days the peer really infers; fewer are extrapolated.
    """

    model: str
    rows: int = 512
    runs: int = 3
    plumbing_rows: tuple[int, int] = (100_000, 1_000_000)
    max_tokens: int = 128
    speculative_tokens: int = 4
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 8192
    max_model_len: int = 1024
    kv_cache_gib: int = 2
    traces: str = ""
    partitions: int = 30
    peers: int = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One line of the table.

    Attributes:
        name: what was measured.
        ours: our value, with its unit.
        peer: the peer's value, with its unit; empty without a peer.
        ratio: what the bound is about.
        least: the bound, if it is a lower one.
        most: the bound, if it is an upper one.
        decimals: of the ratio.
    """

    name: str
    ours: str
    ratio: float
    peer: str = ""
    least: float | None = None
    most: float | None = None
    decimals: int = 2

    @property
    def ok(self) -> bool:
        """Whether the bound is kept."""
        above = self.least is None or self.ratio >= self.least
        return above and (self.most is None or self.ratio <= self.most)

    def cells(self) -> tuple[str, ...]:
        """As the table shows it."""
        bounds = [
            f"{sign} {bound:g}"
            for sign, bound in ((">=", self.least), ("<=", self.most))
            if bound is not None
        ]
        ratio = f"{self.ratio:.{self.decimals}f}"
        verdict = ("ok" if self.ok else "NOT") if bounds else ""
        return self.name, self.ours, self.peer, ratio, ", ".join(bounds), verdict


def table(figures: Sequence[Figure]) -> str:
    """All figures, in columns."""
    lines = [_HEADINGS, *(figure.cells() for figure in figures)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADINGS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def fresh(
    function: str, *, env: dict[str, str | None] | None = None, **arguments: Any
) -> dict[str, Any]:
    """Call `module:function` in a process of its own; returns the dict that it returns.

    Args:
        function: of this package, e.g. `bench_plumbing:publish_rows`.
        env: changes to the environment; None takes a variable away.
        arguments: JSON-able keyword arguments.

    Raises:
        RuntimeError: if the process fails; with the end of what it said.
    """
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.child", function],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=ROOT,
            env=_changed(environment(), env or {}),
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(json.dumps(arguments))
        finally:
            # Whatever a library left running would slow the next measurement.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        lines = output.splitlines()
        answers = [line for line in lines if line.startswith("{")]
        if process.returncode or not answers:
            errors.seek(0)
            said = "\n".join([*errors.read().splitlines()[-_LINES_OF_STDERR:], *lines])
            raise RuntimeError(f"{function} ended with {process.returncode}:\n{said}")
    answer: dict[str, Any] = json.loads(answers[-1])
    print(f"  {function} {short(arguments)}: {short(answer)}", file=sys.stderr, flush=True)
    return answer


def _changed(before: dict[str, str], changes: dict[str, str | None]) -> dict[str, str]:
    after = {**before, **changes}
    return {name: value for name, value in after.items() if value is not None}


def environment() -> dict[str, str]:
    """The environment of every measured process, ours and the peers'."""
    return {
        **os.environ,
        "PYTHONPATH": f"{ROOT / 'platform'}{os.pathsep}{ROOT}",
        "RAY_USAGE_STATS_ENABLED": "0",
        "DAGSTER_DISABLE_TELEMETRY": "yes",
        "HF_HUB_OFFLINE": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
    }


@contextlib.contextmanager
def new_home() -> Iterator[Path]:
    """A directory on disk, not in memory: what has to be durable has to be paid for."""
    made = Path(tempfile.mkdtemp(prefix="overnight-bench-"))
    made.chmod(0o711)  # the embedded server's own user has to reach it
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def short(values: dict[str, Any]) -> str:
    """For the log of a run."""

    def brief(value: Any) -> Any:
        return round(value, 3) if isinstance(value, float) else value

    return " ".join(
        f"{name}={brief(value)}"
        for name, value in values.items()
        if not isinstance(value, dict) and len(str(value)) < 80
    )
