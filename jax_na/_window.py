"""The parameters of a neighborhood, one value per axis, checked once and carried as one object."""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np

from jax_na import _core

Boundary: TypeAlias = Literal["shift", "clip", "wrap"]
BOUNDARIES: tuple[Boundary, ...] = ("shift", "clip", "wrap")
MAX_RANK = 3


def _whole(name: str, axis: int, value: Any) -> int:
    if isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name}[{axis}] should be an integer, but got {value!r}")
    try:
        return operator.index(value)
    except TypeError:
        raise ValueError(f"{name}[{axis}] should be an integer, but got {value!r}") from None


def _flag(name: str, axis: int, value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name}[{axis}] should be True or False, but got {value!r}")
    return bool(value)


def _per_axis(name: str, value: Any, rank: int) -> tuple[Any, ...]:
    """Broadcasts a scalar to all axes; a sequence must have one entry per axis."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        return (value,) * rank
    if len(value) != rank:
        raise ValueError(
            f"{name} should be one value or {rank} values, one per axis, but got "
            f"{len(value)}: {value!r}"
        )
    return tuple(value)


@dataclasses.dataclass(frozen=True)
class Window:
    """Which keys a query sees, per axis.

    Args:
      kernel_size: keys per query and axis, a tuple with one entry per axis (its length is the rank,
        1 to 3); an integer means rank 1. ``None`` stands for the whole axis and takes dilation 1.
      stride: neighbouring queries that share one window, 1 to ``kernel_size``.
      dilation: gap between neighbouring keys, at least 1.
      is_causal: hide keys that come after the query on this axis.
      boundary: what happens at the ends of an axis: ``"shift"`` moves the window inside, ``"clip"``
        cuts it, ``"wrap"`` makes the axis periodic.

    Scalars broadcast to all axes. The object is immutable and hashable.

    Raises:
      ValueError: a parameter is illegal whatever the lengths are; :meth:`resolve` checks the rest.

    Source: docs/semantics.md; Hassani et al., "Faster Neighborhood Attention" (NeurIPS 2024),
      section 2.
    """

    kernel_size: tuple[int | None, ...]
    stride: tuple[int, ...] = (1,)
    dilation: tuple[int, ...] = (1,)
    is_causal: tuple[bool, ...] = (False,)
    boundary: tuple[Boundary, ...] = ("shift",)

    def __init__(
        self,
        kernel_size: int | Sequence[int | None] | None,
        stride: int | Sequence[int] = 1,
        dilation: int | Sequence[int] = 1,
        is_causal: bool | Sequence[bool] = False,
        boundary: Boundary | Sequence[Boundary] = "shift",
    ):
        if isinstance(kernel_size, np.ndarray):
            kernel_size = kernel_size.tolist()
        sizes = tuple(kernel_size) if isinstance(kernel_size, Sequence) else (kernel_size,)
        rank = len(sizes)
        if not 1 <= rank <= MAX_RANK:
            raise ValueError(
                f"kernel_size should have 1 to {MAX_RANK} entries, but got {rank}: {kernel_size!r}"
            )
        kernel = tuple(
            None if w is None else _whole("kernel_size", a, w) for a, w in enumerate(sizes)
        )
        strides = tuple(
            _whole("stride", a, s) for a, s in enumerate(_per_axis("stride", stride, rank))
        )
        dilations = tuple(
            _whole("dilation", a, d) for a, d in enumerate(_per_axis("dilation", dilation, rank))
        )
        causal = tuple(
            _flag("is_causal", a, c) for a, c in enumerate(_per_axis("is_causal", is_causal, rank))
        )
        boundaries = _per_axis("boundary", boundary, rank)
        for axis in range(rank):
            w, s, d, c, b = (
                kernel[axis],
                strides[axis],
                dilations[axis],
                causal[axis],
                boundaries[axis],
            )
            if w is not None and w < 1:
                raise ValueError(f"kernel_size[{axis}] should be at least 1, but got {w}")
            if d < 1:
                raise ValueError(f"dilation[{axis}] should be at least 1, but got {d}")
            if w is None and d != 1:
                raise ValueError(
                    f"dilation[{axis}] should be 1 where kernel_size[{axis}] is None (the "
                    f"whole axis), but got {d}"
                )
            if s < 1 or (w is not None and s > w):
                legal = "at least 1" if w is None else f"between 1 and kernel_size[{axis}] = {w}"
                raise ValueError(f"stride[{axis}] should be {legal}, but got {s}")
            if b not in BOUNDARIES:
                raise ValueError(
                    f"boundary[{axis}] should be one of {', '.join(map(repr, BOUNDARIES))}, "
                    f"but got {b!r}"
                )
            if b == "wrap" and c:
                raise ValueError(
                    f"is_causal[{axis}] should be False where boundary[{axis}] is 'wrap', but "
                    f"got True"
                )
        for name, value in zip(
            ("kernel_size", "stride", "dilation", "is_causal", "boundary"),
            (kernel, strides, dilations, causal, boundaries),
            strict=True,
        ):
            object.__setattr__(self, name, value)

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.kernel_size)

    @property
    def sizes(self) -> tuple[int, ...]:
        """`kernel_size` of a resolved window, which has no None.

        Raises:
          ValueError: an entry is None; :meth:`resolve` first.
        """
        sizes = tuple(w for w in self.kernel_size if w is not None)
        if len(sizes) != self.rank:
            raise ValueError(f"kernel_size should be resolved, but got {self.kernel_size}")
        return sizes

    def resolve(self, spatial: Sequence[int]) -> Window:
        """This window on axes of the given lengths, with every ``None`` in ``kernel_size`` replaced
        by its length.

        Raises:
          ValueError: an axis is too short for its window, or not a multiple of the dilation where
            it wraps.
        """
        if len(spatial) != self.rank:
            raise ValueError(
                f"kernel_size has {self.rank} entries, but there are {len(spatial)} spatial "
                f"axes: {tuple(spatial)}"
            )
        sizes = []
        for axis, length in enumerate(spatial):
            w, s, d = self.kernel_size[axis], self.stride[axis], self.dilation[axis]
            if length < 1:
                raise ValueError(
                    f"spatial axis {axis} should have a length of at least 1, but got {length}"
                )
            if w is None:
                w = length
                if s > w:
                    raise ValueError(
                        f"stride[{axis}] should be between 1 and {w} (the whole axis), but got {s}"
                    )
            if d > length:
                raise ValueError(
                    f"dilation[{axis}] should be between 1 and {length} (the length of spatial "
                    f"axis {axis}), but got {d}"
                )
            if w * d > length:
                raise ValueError(
                    f"kernel_size[{axis}] should be between 1 and {length // d} (length "
                    f"{length} of spatial axis "
                    f"{axis} over dilation {d}), but got {w}"
                )
            if self.boundary[axis] == "wrap" and length % d:
                raise ValueError(
                    f"dilation[{axis}] should divide the length {length} of spatial axis "
                    f"{axis} where boundary[{axis}] "
                    f"is 'wrap', but got {d}"
                )
            sizes.append(w)
        return Window(sizes, self.stride, self.dilation, self.is_causal, self.boundary)

    def intervals(self, spatial: Sequence[int], axis: int) -> tuple[np.ndarray, np.ndarray]:
        """First and one past the last key of each token of one axis, as positions inside the
        token's dilation group.

        Positions are not reduced modulo the axis where it wraps. Returns two int64 arrays of shape
        [spatial[axis]].
        """
        w = self.resolve(spatial)
        begin, end = _core.windows(
            spatial[axis],
            w.sizes[axis],
            w.stride[axis],
            w.dilation[axis],
            w.is_causal[axis],
            w.boundary[axis],
        )
        return np.array(begin, np.int64), np.array(end, np.int64)

    def visible(self, spatial: Sequence[int], query: Sequence[int]) -> np.ndarray:
        """Which tokens of the grid the query at coordinates `query` sees: a bool array of shape
        `spatial`.
        """
        if len(query) != self.rank:
            raise ValueError(
                f"query should have {self.rank} coordinates, but got {len(query)}: {tuple(query)}"
            )
        seen = np.ones((1,) * self.rank, bool)
        for axis, (length, token) in enumerate(zip(spatial, query, strict=True)):
            if not 0 <= token < length:
                raise ValueError(
                    f"query[{axis}] should be between 0 and {length - 1}, but got {token}"
                )
            begin, end = (int(bound[token]) for bound in self.intervals(spatial, axis))
            d = self.dilation[axis]
            line = np.zeros(length, bool)
            line[(np.arange(begin, end) * d + token % d) % length] = True
            seen = seen & line.reshape([length if a == axis else 1 for a in range(self.rank)])
        return seen

    def pairs(self, spatial: Sequence[int]) -> int:
        """Number of visible (query, key) pairs of one head of one grid."""
        return math.prod(
            int(np.sum(end - begin))
            for begin, end in (self.intervals(spatial, axis) for axis in range(self.rank))
        )

    def flops(
        self,
        spatial: Sequence[int],
        *,
        batch: int = 1,
        heads: int = 1,
        head_dim: int,
        value_dim: int | None = None,
        additional: int = 0,
        backward: bool = False,
    ) -> int:
        """Floating-point operations of the matrix products (a multiply and an add count two;
        softmax is not counted).

        The forward pass multiplies every visible pair twice (scores, output); the backward pass
        five times (scores again, and the gradients of the weights, query, key and value).
        """
        value_dim = head_dim if value_dim is None else value_dim
        pairs = batch * heads * (self.pairs(spatial) + math.prod(spatial) * additional)
        return 2 * pairs * (3 * head_dim + 2 * value_dim if backward else head_dim + value_dim)

    def bytes(
        self,
        spatial: Sequence[int],
        *,
        batch: int = 1,
        heads: int = 1,
        kv_heads: int | None = None,
        head_dim: int,
        value_dim: int | None = None,
        additional: int = 0,
        itemsize: int = 2,
        backward: bool = False,
    ) -> int:
        """Bytes that any implementation must move: each input read once and each output written
        once.

        `itemsize` is the size of an element of query, key and value; LSE is float32. The backward
        pass reads query, key, value, output, LSE and their two cotangents, and writes three
        gradients.
        """
        value_dim = head_dim if value_dim is None else value_dim
        kv_heads = heads if kv_heads is None else kv_heads
        tokens = batch * math.prod(spatial)
        query, out = tokens * heads * head_dim, tokens * heads * value_dim
        key_value = (tokens + batch * additional) * kv_heads * (head_dim + value_dim)
        lse = 4 * tokens * heads
        if backward:
            return itemsize * 2 * (query + key_value + out) + 2 * lse
        return itemsize * (query + key_value + out) + lse

    def draw(self, spatial: Sequence[int], query: Sequence[int]) -> str:
        """Which keys one query sees, as text: ``Q`` the query, ``#`` a visible key, ``.`` a hidden
        one.

        A line per row of the grid; the planes of a 3-D grid follow each other. A query always sees
        itself.
        """
        from jax_na._draw import draw_text

        return draw_text(self, spatial, query)

    def plot(self, spatial: Sequence[int], query: Sequence[int], ax: Any = None) -> Any:
        """The same picture with matplotlib; returns the axes. Rank 1 and 2 only: a 3-D grid raises
        ValueError.
        """
        from jax_na._draw import plot_window

        return plot_window(self, spatial, query, ax)
