"""How the compiled kernels cut a problem, for people who ask why it costs what it costs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from jax_na import _core
from jax_na._window import Window

PASSES = ("forward", "query_gradient", "key_gradient")


@dataclasses.dataclass(frozen=True)
class Plan:
    """The plan of one pass of the CPU kernels. ``print`` it, or look at its tiles with :meth:`draw`
    and :meth:`plot`.

    Attributes:
      which: "forward", "query_gradient" (queries stay, keys stream past) or "key_gradient" (keys
        stay).
      spatial: lengths of the axes.
      box: tokens of a tile, per axis.
      tiles: number of tiles of one head of one batch entry.
      useful: visible pairs of one head of one batch entry.
      visited: pairs that are computed for them; ``visited / useful`` is the price of whole vectors.
      packed: tokens of the streamed side copied for them.
    """

    which: str
    spatial: tuple[int, ...]
    box: tuple[int, ...]
    tiles: int
    useful: int
    visited: int
    packed: int
    spans: tuple[
        tuple[tuple[int, int, int], ...], ...
    ]  # per axis: dilation group, first position, positions
    dilation: tuple[int, ...]
    text: str

    def __str__(self) -> str:
        return self.text

    def tile_map(self) -> np.ndarray:
        """The number of the tile of every token: int array of shape `spatial`."""
        number = np.zeros((1,) * len(self.spatial), int)
        for axis, (length, spans, d) in enumerate(
            zip(self.spatial, self.spans, self.dilation, strict=True)
        ):
            line = np.zeros(length, int)
            for index, (group, begin, count) in enumerate(spans):
                line[group + d * np.arange(begin, begin + count)] = index
            shape = [length if a == axis else 1 for a in range(len(self.spatial))]
            number = number * len(spans) + line.reshape(shape)
        return number

    def draw(self) -> str:
        """The tile map as text: a letter per token, repeating after 52 tiles."""
        from jax_na._draw import draw_tiles

        return draw_tiles(self.tile_map())

    def plot(self, ax: Any = None) -> Any:
        """The tile map of a 1-D or 2-D grid with matplotlib; returns the axes."""
        from jax_na._draw import plot_tiles

        return plot_tiles(self.tile_map(), ax)


def plan(
    window: Window,
    spatial: Sequence[int],
    *,
    which: Literal["forward", "query_gradient", "key_gradient"] = "forward",
    batch: int = 1,
    heads: int = 1,
    kv_heads: int | None = None,
    head_dim: int,
    value_dim: int | None = None,
    additional: int = 0,
    dtype: Any = jnp.float32,
) -> Plan:
    """The plan that the CPU kernels follow for one pass of a problem.

    Args:
      window: the neighborhood.
      spatial: lengths of the axes.
      which: the pass.
      batch, heads, kv_heads, head_dim, value_dim, additional: sizes of the tensors, as in
        :func:`neighborhood_attention`.
      dtype: of the tensors; float64 is computed in float64 and all others in float32.

    Raises:
      ValueError: an illegal window or size.
    """
    if which not in PASSES:
        raise ValueError(
            f"which should be one of {', '.join(map(repr, PASSES))}, but got {which!r}"
        )
    w = window.resolve(spatial)
    lead = 3 - w.rank
    problem = _core.Problem.of(
        batch,
        heads,
        heads if kv_heads is None else kv_heads,
        head_dim,
        head_dim if value_dim is None else value_dim,
        additional,
        (1,) * lead + tuple(spatial),
        (1,) * lead + w.sizes,
        (1,) * lead + w.stride,
        (1,) * lead + w.dilation,
        (False,) * lead + w.is_causal,
        ("shift",) * lead + w.boundary,
    )
    found = _core.cpu_plan(which, problem, 8 if jnp.dtype(dtype) == jnp.float64 else 4)
    return Plan(
        which=which,
        spatial=tuple(spatial),
        box=tuple(found.box[lead:]),
        tiles=found.tiles,
        useful=found.useful,
        visited=found.visited,
        packed=found.packed,
        spans=tuple(
            tuple((group, begin, count) for group, begin, count in spans)
            for spans in found.spans[lead:]
        ),
        dilation=w.dilation,
        text=str(found),
    )
