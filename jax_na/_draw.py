"""Pictures of windows and tiles, as text and with matplotlib."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from jax_na._window import Window


def _lines(letters: np.ndarray) -> str:
    """One line per row; a blank line between the planes of a 3-D grid."""
    if letters.ndim == 3:
        return "\n\n".join(_lines(plane) for plane in letters)
    return "\n".join(" ".join(row) for row in np.atleast_2d(letters))


def _flat(values: np.ndarray, what: str) -> np.ndarray:
    if values.ndim > 2:
        raise ValueError(
            f"{what} can be plotted for 1-D and 2-D grids, but this one has {values.ndim} "
            f"axes: draw it as text"
        )
    return np.atleast_2d(values)


def _axes(ax: Any) -> Any:
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots()[1]


def draw_text(window: Window, spatial: Sequence[int], query: Sequence[int]) -> str:
    """`Window.draw`: Q the query, # a visible key, . a hidden one."""
    letters = np.where(window.visible(spatial, query), "#", ".")
    letters[tuple(query)] = "Q"
    return _lines(letters)


def plot_window(window: Window, spatial: Sequence[int], query: Sequence[int], ax: Any) -> Any:
    """`Window.plot`: visible keys filled, the query in another colour."""
    grid = _flat(window.visible(spatial, query).astype(float), "a window")
    place = tuple(query) if len(spatial) == 2 else (0, query[0])
    grid[place] = 2
    ax = _axes(ax)
    ax.imshow(grid, cmap="Blues", vmin=0, vmax=2.5)
    ax.set(title=f"keys seen by query {tuple(int(i) for i in query)}", xticks=[], yticks=[])
    return ax


def draw_tiles(tile_map: np.ndarray) -> str:
    """`Plan.draw`: a letter per token."""
    letters = np.array(list(string.ascii_letters))
    return _lines(letters[tile_map % len(letters)])


def plot_tiles(tile_map: np.ndarray, ax: Any) -> Any:
    """`Plan.plot`: a colour per tile, of 20 that repeat."""
    ax = _axes(ax)
    ax.imshow(_flat(tile_map % 20, "a tile map"), cmap="tab20", vmin=0, vmax=19)
    ax.set(title=f"{int(tile_map.max()) + 1} tiles", xticks=[], yticks=[])
    return ax
