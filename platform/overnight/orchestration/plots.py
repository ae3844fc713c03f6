"""Small plots of a partition, as Markdown that the Dagster UI shows."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

from overnight.progress import speed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import polars as pl

    from overnight.workers.progress import PoolProgress


def throughput(samples: Sequence[PoolProgress]) -> str:
    """Tokens/s (or rows/s, for engines without tokens) over time."""
    speeds = [
        speed(now, before) for before, now in zip([None, *samples[:-1]], samples, strict=True)
    ]
    in_tokens = any(tokens for _, tokens in speeds)
    seconds = [sample.seconds for sample in samples]
    values = [tokens if in_tokens else rows for rows, tokens in speeds]

    def draw(axes: Any) -> None:
        axes.plot(seconds, values, color="#4f43dd", linewidth=1.5)
        axes.fill_between(seconds, values, color="#4f43dd", alpha=0.15)
        axes.set_xlabel("seconds since the first worker was asked for")
        axes.set_ylabel("tokens/s" if in_tokens else "rows/s")
        axes.set_ylim(bottom=0)

    return _markdown("throughput", draw)


def output_length(lengths: pl.DataFrame) -> str:
    """How long outputs were: a histogram over tokens (columns `tokens`, `rows`)."""

    def draw(axes: Any) -> None:
        axes.hist(
            lengths["tokens"].to_list(),
            weights=lengths["rows"].to_list(),
            bins=min(40, max(1, lengths.height)),
            color="#4f43dd",
        )
        axes.set_xlabel("output tokens")
        axes.set_ylabel("rows")

    return _markdown("output length", draw)


def precision_recall(precision: Sequence[float], recall: Sequence[float]) -> str:
    """The precision-recall curve, from the highest score down; each value 0 to 1."""

    def draw(axes: Any) -> None:
        axes.step(recall, precision, where="post", color="#4f43dd", linewidth=1.5)
        axes.set_xlabel("recall")
        axes.set_ylabel("precision")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.02)

    return _markdown("precision-recall curve", draw)


def _markdown(title: str, draw: Callable[[Any], None]) -> str:
    # The object interface: no global state, no display, safe in any thread.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 2.2), dpi=90, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    draw(axes)
    image = io.BytesIO()
    figure.savefig(image, format="png")
    return f"![{title}](data:image/png;base64,{base64.b64encode(image.getvalue()).decode()})"
