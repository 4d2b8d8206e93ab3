"""How the examples' pictures look."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

INK, ACCENT, SECOND, FAINT = "#22223b", "#d1495b", "#00798c", "#c9c9d4"


@contextmanager
def picture(path: Path, width: float, height: float) -> Iterator[Any]:
    """A figure of that size in inches, to be drawn on and saved as `path` in the end."""
    with matplotlib.rc_context({"font.size": 10, "axes.edgecolor": INK, "text.color": INK}):
        figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
        yield figure
        figure.savefig(path)


def bare(axes: Any) -> None:
    """Takes the ticks away."""
    axes.set_xticks([])
    axes.set_yticks([])


def draw_curves(
    axes: Any, losses: Sequence[float], steps: ArrayLike, scores: ArrayLike, label: str
) -> Any:
    """The loss of every step with its running mean, and the held-out scores at some steps.

    Returns the axes of the scores.
    """
    width = min(20, len(losses))
    mean = np.convolve(losses, np.ones(width) / width, "valid")
    axes.semilogy(np.arange(1, len(losses) + 1), losses, color=FAINT, linewidth=0.8)
    axes.semilogy(np.arange(width, len(losses) + 1), mean, color=ACCENT, linewidth=1.8)
    axes.set_xlabel("step")
    axes.set_ylabel("training loss", color=ACCENT)
    axes.set_xlim(0, len(losses))
    right = axes.twinx()
    right.plot(steps, scores, color=SECOND, marker=".", linewidth=1.2)
    right.set_ylabel(label, color=SECOND)
    for side in (axes, right):
        side.spines["top"].set_visible(False)
    return right
