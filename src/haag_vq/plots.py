"""The pictures: memory over time, and how distance grows with rank."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from haag_vq.atomic import written_whole
from haag_vq.groundtruth import GroundTruth
from haag_vq.memory import Allowance, Projection, format_bytes

INK = "#22303c"
BLUE = "#2a6fbb"
RED = "#c8442e"

_AXIS_LABELS = {"l2": "squared distance", "ip": "inner product", "cosine": "cosine similarity"}


def plot_memory(
    seconds: Sequence[float],
    rss_bytes: NDArray[np.int64],
    projected_bytes: int,
    path: str | os.PathLike[str],
) -> None:
    """Draw the RSS of each worker over time against the projection.

    Parameters
    ----------
    seconds : (t,)
    rss_bytes : (t, n_workers) int64
    projected_bytes : int
        Of one worker.
    path : path-like
        A .png file.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for worker in range(rss_bytes.shape[1]):
        label = "each worker, measured" if worker == 0 else None
        axes.plot(seconds, rss_bytes[:, worker] / 2**20, color=BLUE, lw=1.4, alpha=0.8, label=label)
    axes.axhline(
        projected_bytes / 2**20, color=RED, ls="--", lw=1.4, label="projected before the run"
    )
    axes.set_ylim(0, max(projected_bytes, int(rss_bytes.max(initial=0))) / 2**20 * 1.15)
    axes.set_xlim(left=0)
    axes.set_xlabel("seconds")
    axes.set_ylabel("resident memory, MiB")
    axes.set_title("Memory of the workers while they search", loc="left", color=INK)
    axes.legend(frameon=False, loc="lower right")
    _finish(figure, axes, path)


def plot_distances(truth: GroundTruth, path: str | os.PathLike[str]) -> None:
    """Draw distance against rank: the median over the queries, and the middle 80% of them."""
    from matplotlib.figure import Figure

    ranks = np.arange(1, truth.k + 1)
    low, middle, high = np.percentile(truth.distances, (10, 50, 90), axis=0)
    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    axes = figure.add_subplot()
    axes.fill_between(ranks, low, high, color=BLUE, alpha=0.2, lw=0, label="80% of the queries")
    axes.plot(ranks, middle, color=BLUE, lw=1.6, label="median query")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.set_xlabel("rank of the neighbour")
    axes.set_ylabel(_AXIS_LABELS[truth.metric])
    axes.set_title(
        f"The {truth.k} nearest of {truth.n_rows:,} vectors, {truth.n_queries:,} queries",
        loc="left",
        color=INK,
    )
    axes.legend(frameon=False)
    _finish(figure, axes, path)


def plot_bars(
    names: Sequence[str],
    values: Sequence[float],
    unit: str,
    title: str,
    path: str | os.PathLike[str],
) -> None:
    """Draw one horizontal bar for each name, its value beside it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 0.9 + 0.55 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    bars = axes.barh(list(names), list(values), color=BLUE, height=0.6)
    axes.bar_label(bars, labels=[f"{value:,.0f}" for value in values], padding=4, color=INK)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_xlabel(unit)
    axes.set_title(title, loc="left", color=INK)
    _finish(figure, axes, path)


def plot_memory_parts(
    projection: Projection, allowance: Allowance, path: str | os.PathLike[str]
) -> None:
    """Draw the projected memory of a worker by its parts, against what it may use."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 2.2), layout="constrained")
    axes = figure.add_subplot()
    left = 0.0
    shades = np.linspace(1.0, 0.3, len(projection.parts))
    for (name, n_bytes), shade in zip(projection.parts.items(), shades, strict=True):
        width = n_bytes / 2**20
        axes.barh([""], [width], left=left, color=BLUE, alpha=shade, height=0.5, label=name)
        left += width
    may = allowance.bytes / 2**20
    # Far beyond the parts, the line would press them together.
    if may <= 3 * left:
        axes.axvline(may, color=RED, ls="--", lw=1.4, label="may be used")
    axes.set_xlim(0, max(left, may if may <= 3 * left else 0) * 1.08)
    axes.set_xlabel("MiB")
    total, most = format_bytes(projection.total_bytes), format_bytes(allowance.bytes)
    title = f"Projected memory of a worker: {total}; it may use {most}"
    axes.set_title(title, loc="left", color=INK)
    axes.legend(frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.35))
    _finish(figure, axes, path)


def _finish(figure: object, axes: object, path: str | os.PathLike[str]) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)  # type: ignore[attr-defined]
    with written_whole(Path(path)) as part:
        figure.savefig(part, format="png", dpi=120)  # type: ignore[attr-defined]
