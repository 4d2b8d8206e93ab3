"""Draws docs/window.png, the picture of the README: python docs/make_pictures.py"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

import jax_na

SIDE = 12
PICTURE = Path(__file__).with_name("window.png")

# Title, window, query.
WINDOWS = (
    ("kernel_size=5", jax_na.Window((5, 5)), (6, 6)),
    ('a corner, boundary="shift"', jax_na.Window((5, 5)), (0, 10)),
    ("dilation=2", jax_na.Window((5, 5), dilation=2), (6, 6)),
    ("is_causal=(True, False)", jax_na.Window((5, 5), is_causal=(True, False)), (6, 6)),
    ('boundary="wrap"', jax_na.Window((5, 5), boundary="wrap"), (0, 10)),
)


def lines_between_tokens(ax: Axes, title: str) -> None:
    """A thin line between every two tokens, and the title."""
    ax.set_title(title, fontsize=9, family="monospace")
    ax.set_xticks(np.arange(SIDE + 1) - 0.5, minor=True)
    ax.set_yticks(np.arange(SIDE + 1) - 0.5, minor=True)
    ax.grid(which="minor", color="0.8", linewidth=0.6)
    ax.tick_params(which="both", length=0)
    for spine in ax.spines.values():
        spine.set_color("0.6")


def main() -> None:
    figure, axes = plt.subplots(1, len(WINDOWS) + 1, figsize=(13.2, 2.5))
    for ax, (title, window, query) in zip(axes, WINDOWS, strict=False):
        window.plot((SIDE, SIDE), query, ax)
        lines_between_tokens(ax, title)
    plan = jax_na.plan(jax_na.Window((5, 5)), (SIDE, SIDE), head_dim=32)
    plan.plot(axes[-1])
    lines_between_tokens(axes[-1], f"{plan.tiles} tiles of a kernel")
    figure.tight_layout(pad=0.6, w_pad=0.9)
    figure.savefig(PICTURE, dpi=110)
    print(f"{PICTURE.name}: {PICTURE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
