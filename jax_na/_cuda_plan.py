"""How the fused forward pass on CUDA devices cuts a problem: to be asked for, and to be given."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import jax.numpy as jnp

from jax_na import _core, _ffi
from jax_na._arguments import keeps_float32, read_precision
from jax_na._window import Window

#: Multiprocessors of an H100 SXM.
H100_MULTIPROCESSORS = 132
#: At which predicted clocks are told as a time: an H100's under the load of these kernels.
GIGAHERTZ = 1.6
_EXTENTS = ("queries", "warpgroups", "keys", "phases")


@dataclasses.dataclass(frozen=True)
class CudaPlan:
    """A way to run the fused forward pass on a GPU, for the argument `plan` of
    :func:`neighborhood_attention`. Hashable; plans of one cut are equal, whatever is known of them.

    Attributes:
      kernel: "hopper", the kernel for GPUs of compute capability 9.0, or "warps", the kernels for
        every GPU, which plan for themselves: they have no extents.
      queries: queries of a warpgroup along each axis, 64 at most in all.
      warpgroups: side by side, 2 along one axis and 1 along the others.
      keys: keys of a tile along each axis, in all at most 128 up to a head dimension of 128, 96 up
        to 192 and 64 up to 256.
      phases: launches along each axis, a divisor of its dilation: each takes every phases-th token,
        and steps over what is left of the dilation, which may be 8 at most. Omitted: 1.
      clocks: of one multiprocessor, as predicted; None in a plan that was not asked for.
      items, tiles, masked_tiles: of the first launch: boxes of queries, tiles of keys that they
        meet, and how many of these are masked.
      text: the plan in words.
    """

    kernel: Literal["hopper", "warps"]
    queries: tuple[int, ...] = ()
    warpgroups: tuple[int, ...] = ()
    keys: tuple[int, ...] = ()
    phases: tuple[int, ...] = ()
    clocks: float | None = dataclasses.field(default=None, compare=False)
    items: int | None = dataclasses.field(default=None, compare=False)
    tiles: float | None = dataclasses.field(default=None, compare=False)
    masked_tiles: float | None = dataclasses.field(default=None, compare=False)
    text: str = dataclasses.field(default="", compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.kernel not in ("hopper", "warps"):
            raise ValueError(f"kernel should be 'hopper' or 'warps', but got {self.kernel!r}")
        for name in _EXTENTS:
            object.__setattr__(self, name, _extents(name, getattr(self, name)))
        if self.kernel == "warps":
            given = [name for name in _EXTENTS if getattr(self, name)]
            if given:
                raise ValueError(
                    f"the kernels of 'warps' plan for themselves: {given[0]} should be (), but got "
                    f"{getattr(self, given[0])}"
                )
            return
        if not self.phases:
            object.__setattr__(self, "phases", (1,) * len(self.queries))
        if not 1 <= len(self.queries) <= 3:
            raise ValueError(f"queries should have 1 to 3 entries, but got {self.queries}")
        for name in _EXTENTS:
            if len(getattr(self, name)) != len(self.queries):
                raise ValueError(
                    f"{name} should have {len(self.queries)} entries, as queries has, but got "
                    f"{getattr(self, name)}"
                )

    def __str__(self) -> str:
        words = self.text or ", ".join(f"{name} {getattr(self, name)}" for name in _EXTENTS)
        if self.kernel == "warps":
            words = self.text or "they plan for themselves"
        predicted = "" if self.clocks is None else f"{self.predicted_ms:.3f} ms predicted; "
        return f"{self.kernel}: {predicted}{words}"

    @property
    def rank(self) -> int | None:
        """Of the windows that it is for; None if of any."""
        return len(self.queries) or None

    @property
    def predicted_ms(self) -> float | None:
        """What is predicted of the device's time, at the 1.6 GHz of a busy H100."""
        return None if self.clocks is None else self.clocks / (GIGAHERTZ * 1e6)

    @property
    def launches(self) -> int:
        return math.prod(self.phases)

    def numbers(self) -> list[int]:
        """As the custom call and the planner read it."""
        lead = 3 - len(self.queries)
        found = [int(self.kernel == "hopper")]
        for name in _EXTENTS:
            found += [1] * lead + list(getattr(self, name))
        return found


def _extents(name: str, given: Any) -> tuple[int, ...]:
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise ValueError(f"{name} should be a sequence of integers, but got {given!r}")
    for entry in given:
        if isinstance(entry, bool) or not isinstance(entry, numbers.Integral) or int(entry) < 1:
            raise ValueError(f"{name} should be integers of at least 1, but got {given!r}")
    return tuple(int(entry) for entry in given)


@dataclasses.dataclass(frozen=True)
class CudaPlans:
    """The answer to which kernel runs the fused forward pass on a GPU, and why: ``print`` it.

    Attributes:
      ranked: plans in the order of what they are predicted to take; the first one runs.
      refusals: why a kernel is not among them, by kernel.
    """

    ranked: tuple[CudaPlan, ...]
    refusals: tuple[tuple[str, str], ...]

    def __iter__(self) -> Iterator[CudaPlan]:
        return iter(self.ranked)

    def __len__(self) -> int:
        return len(self.ranked)

    def __getitem__(self, index: int) -> CudaPlan:
        return self.ranked[index]

    def __str__(self) -> str:
        lines = [str(plan) for plan in self.ranked]
        lines += [f"{kernel}: not run, since {why}" for kernel, why in self.refusals]
        return "\n".join(lines)


def require_cuda(what: str) -> None:
    """Raises where there are no CUDA kernels that `what` could be about."""
    if not _core.has_cuda:
        raise NotImplementedError(
            f"{what} is about the CUDA kernels, but this jax_na was built without a CUDA compiler"
        )


def _of(found: _core.CudaForwardPlan, rank: int) -> CudaPlan:
    kernel, *extents = found.numbers
    if not kernel:
        return CudaPlan("warps", clocks=found.clocks, text=str(found))
    return CudaPlan(
        "hopper",
        *(tuple(extents[3 * i + 3 - rank : 3 * i + 3]) for i in range(len(_EXTENTS))),
        clocks=found.clocks,
        items=found.items,
        tiles=found.tiles,
        masked_tiles=found.masked_tiles,
        text=str(found),
    )


def cuda_plans(
    window: Window,
    spatial: Sequence[int],
    *,
    batch: int = 1,
    heads: int = 1,
    kv_heads: int | None = None,
    head_dim: int,
    value_dim: int | None = None,
    additional: int = 0,
    bias: bool = False,
    dtype: Any = jnp.bfloat16,
    precision: Any = None,
    multiprocessors: int | None = H100_MULTIPROCESSORS,
    most: int = 8,
) -> CudaPlans:
    """Which kernels could run the fused forward pass of a problem on a GPU, how they would cut it,
    and what each is predicted to take. It needs no GPU.

    Args:
      window: the neighborhood.
      spatial: lengths of the axes.
      batch, heads, kv_heads, head_dim, value_dim, additional: sizes of the tensors, as in
        :func:`neighborhood_attention`.
      bias: whether there is a relative position bias.
      dtype: of the tensors: float32, bfloat16 or float16.
      precision: of the matrix products, as in :func:`neighborhood_attention`.
      multiprocessors: of the GPU of compute capability 9.0 to plan for (an H100 SXM has 132), or
        None for the GPU of this machine, whatever it is.
      most: plans of the Hopper kernel at most.

    Returns:
      The plans, the best one first.

    Raises:
      ValueError: an illegal window or size.
      NotImplementedError: jax_na was built without CUDA kernels.
      RuntimeError: `multiprocessors` is None, and there is no GPU.
    """
    require_cuda("cuda_plans")
    for name, value in (("most", most), ("multiprocessors", multiprocessors)):
        if value is not None and value < 1:
            raise ValueError(f"{name} should be at least 1, but got {value}")
    if jnp.dtype(dtype).name not in ("float32", "bfloat16", "float16"):
        raise ValueError(f"dtype should be float32, bfloat16 or float16, but got {dtype!r}")
    kv_heads = heads if kv_heads is None else kv_heads
    if heads < 1 or kv_heads < 1 or heads % kv_heads:
        raise ValueError(f"kv_heads should divide the {heads} of heads, but got {kv_heads}")
    resolved = window.resolve(spatial)
    problem = _ffi.Geometry.of(resolved, tuple(spatial), 1.0).problem(
        batch,
        heads,
        kv_heads,
        head_dim,
        head_dim if value_dim is None else value_dim,
        additional,
        int(bias),
    )
    found, refusal, hopper_refusal = _core.cuda_forward_plans(
        problem,
        jnp.dtype(dtype).name,
        keeps_float32(read_precision(precision)),
        multiprocessors or 0,
        most,
    )
    refusals = (("warps", refusal), ("hopper", hopper_refusal))
    return CudaPlans(
        tuple(_of(plan, resolved.rank) for plan in found),
        tuple((kernel, why) for kernel, why in refusals if why),
    )


def check_plan(plan: Any, window: Window, problem: _core.Problem, dtype: Any) -> CudaPlan:
    """`plan`, with what is predicted of it on an H100.

    Raises:
      ValueError: the plan is none, or none for the problem.
    """
    if not isinstance(plan, CudaPlan):
        raise ValueError(f"plan should be None or a jax_na.CudaPlan, but got {plan!r}")
    require_cuda("plan")
    if plan.rank not in (None, window.rank):
        raise ValueError(
            f"plan should be for windows of rank {window.rank}, but its queries are {plan.queries}"
        )
    try:
        found = _core.cuda_complete_forward_plan(
            problem, jnp.dtype(dtype).name, False, H100_MULTIPROCESSORS, plan.numbers()
        )
    except ValueError as error:
        raise ValueError(f"plan: {error} ({plan})") from None
    return _of(found, window.rank)
