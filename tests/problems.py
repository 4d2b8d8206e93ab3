"""One table of problems for every test: small ones that cover every feature, and scaled-down real
ones.

Also a hypothesis strategy for any other legal problem, and the inputs of a problem.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from jax_na._window import Window


@dataclasses.dataclass(frozen=True)
class Problem:
    """One attention problem. `additional` is the number of additional tokens, None for none at
    all.
    """

    name: str
    spatial: tuple[int, ...]
    kernel_size: tuple[int | None, ...]
    stride: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    is_causal: tuple[bool, ...] = ()
    boundary: tuple[str, ...] = ()
    batch: tuple[int, ...] = (1,)
    heads: int = 1
    kv_heads: int = 1
    head_dim: int = 4
    value_dim: int = 4
    additional: int | None = None
    bias: bool = False
    scale: float | None = None
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for name, default in (
            ("stride", 1),
            ("dilation", 1),
            ("is_causal", False),
            ("boundary", "shift"),
        ):
            if not getattr(self, name):
                object.__setattr__(self, name, (default,) * len(self.spatial))

    def __str__(self) -> str:
        return self.name

    @property
    def window(self) -> Window:
        """The window, resolved for the spatial axes."""
        return Window(*self.parameters()).resolve(self.spatial)

    def parameters(self) -> tuple[Any, ...]:
        """kernel_size, stride, dilation, is_causal and boundary, in this order."""
        return self.kernel_size, self.stride, self.dilation, self.is_causal, self.boundary

    def call(self) -> dict[str, Any]:
        """The window and the scale as keyword arguments of the public functions."""
        names = ("kernel_size", "stride", "dilation", "is_causal", "boundary")
        return dict(zip(names, self.parameters(), strict=True)) | {"scale": self.scale}

    @property
    def width(self) -> int:
        """Window slots of a query."""
        return math.prod(self.window.sizes)


@dataclasses.dataclass
class Inputs:
    """Arrays of a problem in its type; the last three may be None."""

    query: Any
    key: Any
    value: Any
    additional_keys: Any
    additional_values: Any
    bias: Any

    @property
    def main(self) -> tuple[Any, Any, Any]:
        """Query, key and value."""
        return self.query, self.key, self.value

    def arrays(self) -> tuple[Any, Any, Any, Any, Any, Any]:
        """All of them in order."""
        return (*self.main, self.additional_keys, self.additional_values, self.bias)

    def extras(self) -> dict[str, Any]:
        """The optional ones as keyword arguments of the public functions."""
        return {
            "additional_keys": self.additional_keys,
            "additional_values": self.additional_values,
            "relative_position_bias": self.bias,
        }


def make_inputs(problem: Problem, dtype: Any = None, seed: int = 0) -> Inputs:
    """Standard normal NumPy arrays, rounded to `dtype` (the problem's own if None)."""
    rng = np.random.default_rng(seed)
    kind = jnp.dtype(problem.dtype if dtype is None else dtype)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(kind)

    p = problem
    query = normal(*p.batch, *p.spatial, p.heads, p.head_dim)
    key = normal(*p.batch, *p.spatial, p.kv_heads, p.head_dim)
    value = normal(*p.batch, *p.spatial, p.kv_heads, p.value_dim)
    more_keys = more_values = bias = None
    if p.additional is not None:
        more_keys = normal(*p.batch, p.additional, p.kv_heads, p.head_dim)
        more_values = normal(*p.batch, p.additional, p.kv_heads, p.value_dim)
    if p.bias:
        bias = normal(p.heads, *(2 * w - 1 for w in p.window.sizes))
    return Inputs(query, key, value, more_keys, more_values, bias)


def _p(name: str, spatial: Any, kernel_size: Any, **more: Any) -> Problem:
    return Problem(name, spatial, kernel_size, **more)


SMALL = [
    _p("1d", (11,), (5,)),
    _p("1d-even", (12,), (4,), batch=(2,), heads=2, kv_heads=2),
    _p("1d-one-token", (1,), (1,)),
    _p("1d-self", (7,), (1,), value_dim=3),
    _p("1d-whole", (9,), (None,), stride=(4,), heads=2, kv_heads=1),
    _p("1d-stride", (17,), (6,), stride=(4,), bias=True),
    _p("1d-blocked", (14,), (4,), stride=(4,), heads=2, kv_heads=2),
    _p("1d-dilated", (23,), (4,), dilation=(5,), bias=True),
    _p("1d-dilated-fully", (12,), (3,), dilation=(4,), stride=(2,)),
    _p("1d-causal", (19,), (7,), is_causal=(True,), heads=4, kv_heads=2),
    _p("1d-causal-stride", (19,), (7,), is_causal=(True,), stride=(5,), bias=True),
    _p("1d-causal-whole", (13,), (13,), is_causal=(True,), boundary=("clip",)),
    _p(
        "1d-causal-dilated",
        (20,),
        (5,),
        is_causal=(True,),
        dilation=(3,),
        stride=(2,),
        additional=2,
    ),
    _p("1d-clip", (13,), (6,), boundary=("clip",), bias=True),
    _p("1d-clip-stride", (16,), (7,), boundary=("clip",), stride=(3,), dilation=(2,)),
    _p("1d-wrap", (13,), (6,), boundary=("wrap",), bias=True),
    _p("1d-wrap-whole", (8,), (8,), boundary=("wrap",), stride=(3,), bias=True),
    _p("1d-wrap-dilated", (18,), (5,), boundary=("wrap",), dilation=(3,), stride=(4,)),
    _p("1d-additional", (10,), (3,), additional=3, heads=2, kv_heads=1, head_dim=3, value_dim=5),
    _p("1d-no-batch", (10,), (4,), batch=(), additional=1),
    _p("1d-batches", (6,), (3,), batch=(2, 3)),
    _p("1d-empty-batch", (6,), (3,), batch=(0,), additional=2, bias=True),
    _p("1d-no-additional", (6,), (3,), additional=0),
    _p("1d-scale-zero", (9,), (4,), scale=0.0, bias=True),
    _p("2d", (7, 9), (3, 5), batch=(2,), heads=2, kv_heads=2),
    _p(
        "2d-everything",
        (9, 8),
        (4, 3),
        stride=(3, 1),
        dilation=(2, 2),
        is_causal=(False, True),
        heads=4,
        kv_heads=2,
        head_dim=5,
        value_dim=3,
        additional=2,
        bias=True,
    ),
    _p("2d-boundaries", (8, 9), (5, 4), boundary=("wrap", "clip"), stride=(2, 3), bias=True),
    _p("2d-row", (1, 13), (1, 6), stride=(1, 2)),
    _p("2d-whole-axis", (5, 8), (None, 3), dilation=(1, 2), heads=2, kv_heads=1),
    _p("2d-odd-dilation", (11, 7), (3, 2), dilation=(3, 3), bias=True),
    _p("3d", (4, 5, 6), (3, 3, 3)),
    _p(
        "3d-everything",
        (5, 4, 6),
        (2, 3, 3),
        stride=(2, 1, 3),
        dilation=(2, 1, 2),
        is_causal=(True, False, False),
        boundary=("shift", "clip", "wrap"),
        heads=2,
        kv_heads=1,
        value_dim=3,
        additional=1,
        bias=True,
    ),
    _p("3d-whole", (3, 4, 2), (None, None, None), bias=True),
]

# The axes of real models divided by 4 to 16, and their heads and dimensions likewise.
REAL = [
    _p(
        "nat-tiny-stage1",
        (14, 14),
        (7, 7),
        batch=(2,),
        heads=2,
        kv_heads=2,
        head_dim=8,
        value_dim=8,
        bias=True,
    ),
    _p(
        "nat-tiny-stage3",
        (7, 7),
        (7, 7),
        batch=(2,),
        heads=4,
        kv_heads=4,
        head_dim=8,
        value_dim=8,
        bias=True,
    ),
    _p(
        "dinat-tiny-stage1",
        (14, 14),
        (7, 7),
        dilation=(2, 2),
        heads=2,
        kv_heads=2,
        head_dim=8,
        value_dim=8,
        bias=True,
    ),
    _p(
        "dinat-large-384-stage2",
        (12, 12),
        (3, 3),
        dilation=(4, 4),
        batch=(2,),
        heads=3,
        kv_heads=3,
        head_dim=8,
        value_dim=8,
    ),
    _p(
        "hdit-256",
        (16, 16),
        (7, 7),
        heads=2,
        kv_heads=2,
        head_dim=16,
        value_dim=16,
        dtype="bfloat16",
    ),
    _p(
        "flux-4k",
        (16, 16),
        (5, 5),
        heads=3,
        kv_heads=3,
        head_dim=16,
        value_dim=16,
        dtype="bfloat16",
    ),
    _p(
        "flux-4k-blocked",
        (16, 16),
        (10, 10),
        stride=(2, 2),
        heads=3,
        kv_heads=3,
        head_dim=16,
        value_dim=16,
        additional=5,
        dtype="bfloat16",
    ),
    _p(
        "hunyuan-video",
        (4, 6, 10),
        (2, 3, 3),
        heads=2,
        kv_heads=2,
        head_dim=16,
        value_dim=16,
        dtype="bfloat16",
    ),
    _p(
        "hunyuan-video-blocked",
        (8, 6, 5),
        (5, 3, 3),
        stride=(4, 1, 1),
        heads=2,
        kv_heads=2,
        head_dim=16,
        value_dim=16,
        dtype="bfloat16",
    ),
    _p(
        "cosmos-predict2-2b",
        (3, 6, 10),
        (3, 2, 3),
        stride=(1, 1, 2),
        heads=2,
        kv_heads=2,
        head_dim=16,
        value_dim=16,
        dtype="bfloat16",
    ),
    _p(
        "weather-quarter-degree",
        (9, 18),
        (3, 5),
        boundary=("clip", "wrap"),
        heads=2,
        kv_heads=2,
        head_dim=8,
        value_dim=8,
        dtype="bfloat16",
    ),
    _p(
        "volume-48",
        (6, 6, 6),
        (3, 3, 3),
        heads=2,
        kv_heads=2,
        head_dim=8,
        value_dim=8,
        dtype="float16",
    ),
    _p(
        "sequence-32k",
        (256,),
        (16,),
        heads=2,
        kv_heads=1,
        head_dim=16,
        value_dim=16,
        dtype="bfloat16",
    ),
    _p(
        "sequence-32k-causal",
        (256,),
        (16,),
        is_causal=(True,),
        heads=2,
        kv_heads=1,
        head_dim=16,
        value_dim=16,
        dtype="bfloat16",
    ),
    _p(
        "audio-dilated",
        (130,),
        (15,),
        dilation=(4,),
        batch=(2,),
        heads=2,
        kv_heads=2,
        head_dim=8,
        value_dim=8,
        dtype="float16",
    ),
    _p(
        "stylenat-256",
        (16, 16),
        (3, 3),
        dilation=(4, 4),
        heads=2,
        kv_heads=2,
        head_dim=8,
        value_dim=8,
    ),
]

PROBLEMS = SMALL + REAL


@st.composite
def problems(draw: st.DrawFn, max_tokens: int = 200, dtype: str = "float64") -> Problem:
    """Any legal problem of at most `max_tokens` tokens and small dimensions."""
    rank = draw(st.integers(1, 3))
    longest = int(max_tokens ** (1 / rank) + 1e-9)
    axes = [draw(_axes(longest)) for _ in range(rank)]
    spatial, kernel_size, stride, dilation, is_causal, boundary = zip(*axes, strict=True)
    kv_heads, group = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    return Problem(
        "random",
        spatial,
        kernel_size,
        stride,
        dilation,
        is_causal,
        boundary,
        batch=draw(st.sampled_from([(), (1,), (2,), (2, 2)])),
        heads=kv_heads * group,
        kv_heads=kv_heads,
        head_dim=draw(st.integers(1, 9)),
        value_dim=draw(st.integers(1, 9)),
        additional=draw(st.sampled_from([None, None, 0, 1, 3])),
        bias=draw(st.booleans()),
        scale=draw(st.sampled_from([None, None, 0.0, 0.7])),
        dtype=dtype,
    )


@st.composite
def _axes(draw: st.DrawFn, longest: int) -> tuple[Any, ...]:
    length = draw(st.integers(1, longest))
    if draw(st.integers(0, 9)) == 0:
        return length, None, draw(st.integers(1, length)), 1, False, "shift"
    dilation = draw(st.integers(1, min(length, 5)))
    kernel_size = draw(st.integers(1, length // dilation))
    stride = draw(st.integers(1, kernel_size))
    is_causal = draw(st.booleans())
    legal = ["shift", "clip"]
    if not is_causal and length % dilation == 0:
        legal.append("wrap")
    return length, kernel_size, stride, dilation, is_causal, draw(st.sampled_from(legal))
