"""Small plots of a partition, as Markdown that the Dagster UI shows."""

from __future__ import annotations

import base64
import io
import itertools
import math
from typing import TYPE_CHECKING, Any

from overnight.progress import speed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import polars as pl

    from overnight.workers.progress import PoolProgress

_COLORS = ("#4f43dd", "#b4a1f7", "#1f9d6b", "#d97706", "#c026d3")


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


def load(samples: Sequence[PoolProgress]) -> str:
    """Rows computed at once and rows waiting over time; beside them shares, such as KV cache."""
    seconds = [sample.seconds for sample in samples]
    shares = sorted({name for sample in samples for name in sample.shares})

    def draw(axes: Any) -> None:
        axes.plot(seconds, [s.batch for s in samples], color=_COLORS[0], label="batch")
        axes.plot(seconds, [s.queue for s in samples], color=_COLORS[1], label="queue")
        axes.set_xlabel("seconds since the first worker was asked for")
        axes.set_ylabel("rows")
        axes.set_ylim(bottom=0)
        lines = list(axes.get_lines())
        if shares:
            right = axes.twinx()
            right.set_ylabel("share")
            right.set_ylim(0, 1.02)
            for name, color in zip(shares, itertools.cycle(_COLORS[2:])):
                values = [s.shares.get(name, math.nan) for s in samples]
                right.plot(seconds, values, color=color, linestyle="--", label=name)
            lines += right.get_lines()
        axes.legend(lines, [line.get_label() for line in lines], fontsize=7, frameon=False)

    return _markdown("load", draw)


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

    return _markdown("precision-recall curve", draw, counts=False)


def _markdown(title: str, draw: Callable[[Any], None], *, counts: bool = True) -> str:
    """The plot as a picture in Markdown; counts are written short, such as 10k.

    With matplotlib's object interface: no global state, no display, safe in any thread.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    figure = Figure(figsize=(5, 2.2), dpi=90)
    FigureCanvasAgg(figure)
    # Margins that suit all of these plots: to find a layout costs as much as the drawing.
    figure.subplots_adjust(left=0.13, right=0.87, bottom=0.22, top=0.94)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    draw(axes)
    if counts:
        axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    image = io.BytesIO()
    figure.savefig(image, format="png")
    return f"![{title}](data:image/png;base64,{base64.b64encode(image.getvalue()).decode()})"
