"""Measures the plans of the fused forward pass that are predicted to be the fastest."""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax

from jax_na._arguments import read_arguments, window_of
from jax_na._attention import neighborhood_attention
from jax_na._cuda_plan import H100_MULTIPROCESSORS, CudaPlan, cuda_plans, require_cuda
from jax_na._implementations import is_default
from jax_na._window import Boundary

#: How long the calls of a measurement take together, in milliseconds, and how many there are.
_LONG_ENOUGH = 10.0
_FEWEST_CALLS, _MOST_CALLS = 3, 32


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What a plan was predicted to take, and what it took: the median of some rounds."""

    plan: CudaPlan
    predicted_ms: float
    measured_ms: float


@dataclasses.dataclass(frozen=True)
class Tuning:
    """What :func:`tune` found: ``print`` it for a table.

    Attributes:
      best: the plan that was the fastest, for the argument `plan` of
        :func:`neighborhood_attention`.
      measurements: of all plans, the fastest first.
      device: the kind of device that it was measured on, or "" with a timer of one's own.
    """

    best: CudaPlan
    measurements: tuple[Measurement, ...]
    device: str

    def __str__(self) -> str:
        where = f" on {self.device}" if self.device else ""
        lines = [f"measured ms | predicted ms | plan{where}"]
        lines += [
            f"{one.measured_ms:11.4f} | {one.predicted_ms:12.4f} | "
            f"{one.plan.kernel}: {one.plan.text}"
            for one in self.measurements
        ]
        return "\n".join(lines)


def device_timer(
    attend: Callable[..., Any], operands: dict[str, jax.Array]
) -> Callable[[CudaPlan], float]:
    """A timer of ``attend(**operands, plan=plan)``: the milliseconds of one call on the device, of
    several that follow each other there.
    """

    def chain(plan: CudaPlan, calls: int) -> Callable[..., jax.Array]:
        def run(operands):
            query, rest = operands["query"], {k: v for k, v in operands.items() if k != "query"}
            corner = (slice(0, 1),) * query.ndim
            out = query
            for _ in range(calls):
                out = attend(query=query, **rest, plan=plan)
                # A call needs an element of the one before, so that all of them are made, in turn.
                query = query.at[corner].set(query[corner] + 0 * out[corner])
            return out

        return jax.jit(run)

    compiled: dict[CudaPlan, tuple[Callable[..., jax.Array], int]] = {}

    def timer(plan: CudaPlan) -> float:
        if plan not in compiled:
            predicted = plan.predicted_ms or 1.0
            calls = min(max(math.ceil(_LONG_ENOUGH / predicted), _FEWEST_CALLS), _MOST_CALLS)
            compiled[plan] = chain(plan, calls), calls
            jax.block_until_ready(compiled[plan][0](operands))
        run, calls = compiled[plan]
        # What a dispatch and a wait cost the host is in both.
        one, three = (_milliseconds(run, operands, dispatches) for dispatches in (1, 3))
        return max(three - one, 0.0) / (2 * calls)

    return timer


def _milliseconds(run: Callable[..., jax.Array], operands: dict[str, jax.Array], dispatches: int):
    """How long dispatches that follow each other take, up to the last one's results."""
    begin = time.perf_counter()
    out = [run(operands) for _ in range(dispatches)]
    jax.block_until_ready(out)
    return (time.perf_counter() - begin) * 1e3


def measure(
    plans: Sequence[CudaPlan], timer: Callable[[CudaPlan], float], rounds: int
) -> tuple[Measurement, ...]:
    """Times all plans in turn, round by round, after a call of each that is not counted."""
    for plan in plans:
        timer(plan)
    times: list[list[float]] = [[] for _ in plans]
    for _ in range(rounds):
        for plan, taken in zip(plans, times, strict=True):
            taken.append(timer(plan))
    return tuple(
        Measurement(plan, plan.predicted_ms or math.nan, statistics.median(taken))
        for plan, taken in zip(plans, times, strict=True)
    )


def _array(given: Any, seed: int) -> Any:
    """`given`, or numbers in its place where it is but a shape and a type."""
    if not isinstance(given, jax.ShapeDtypeStruct):
        return given
    return jax.random.normal(jax.random.key(seed), given.shape, given.dtype)


def tune(
    query: Any,
    key: Any,
    value: Any,
    kernel_size: int | Sequence[int | None] | None,
    stride: int | Sequence[int] = 1,
    dilation: int | Sequence[int] = 1,
    is_causal: bool | Sequence[bool] = False,
    scale: float | None = None,
    additional_keys: Any = None,
    additional_values: Any = None,
    *,
    boundary: Boundary | Sequence[Boundary] = "shift",
    relative_position_bias: Any = None,
    precision: Any = None,
    candidates: int = 8,
    rounds: int = 7,
    timer: Callable[[CudaPlan], float] | None = None,
) -> Tuning:
    """Measures the best plans of the fused forward pass on a GPU and returns the fastest, for the
    argument `plan` of :func:`neighborhood_attention`.

    Args:
      query, key, value, additional_keys, additional_values, relative_position_bias: as in
        :func:`neighborhood_attention`; arrays, or ``jax.ShapeDtypeStruct`` for which numbers are
        drawn.
      kernel_size, stride, dilation, is_causal, scale, boundary, precision: as there.
      candidates: plans of the Hopper kernel at most. The kernels for every GPU are measured too.
      rounds: in which every plan is timed once; medians are compared.
      timer: milliseconds of a plan, to measure something else than the forward pass alone. It is
        called once more than there are rounds. With it no GPU is needed here: plans are then for an
        H100. By default some calls of a plan follow each other on the device, and a wall's clock
        says what a few dispatches more take.

    Returns:
      The fastest plan, as `best`, and what was measured of all.

    Raises:
      ValueError: a wrong argument.
      NotImplementedError: jax_na was built without CUDA kernels.
      RuntimeError: JAX's default device is no CUDA device, and `timer` is None.
    """
    require_cuda("tune")
    for name, number in (("candidates", candidates), ("rounds", rounds)):
        if number < 1:
            raise ValueError(f"{name} should be at least 1, but got {number}")
    if timer is None and not is_default("cuda"):
        raise RuntimeError(
            "tune measures on a CUDA device, but JAX's default backend is "
            f"{jax.default_backend()!r}; cuda_plans says what is predicted without one"
        )
    window = window_of(None, kernel_size, stride, dilation, is_causal, boundary)
    a = read_arguments(
        _array(query, 0),
        _array(key, 1),
        _array(value, 2),
        window,
        scale,
        _array(additional_keys, 3),
        _array(additional_values, 4),
        _array(relative_position_bias, 5),
    )
    plans = cuda_plans(
        a.window,
        a.spatial,
        batch=max(math.prod(a.batch), 1),
        heads=a.query.shape[-2],
        kv_heads=a.key.shape[-2],
        head_dim=a.query.shape[-1],
        value_dim=a.value.shape[-1],
        additional=0 if a.additional_keys is None else a.additional_keys.shape[-3],
        bias=a.bias is not None,
        dtype=a.query.dtype,
        precision=precision,
        multiprocessors=H100_MULTIPROCESSORS if timer else None,
        most=candidates,
    )
    operands = {
        "query": a.query,
        "key": a.key,
        "value": a.value,
        "additional_keys": a.additional_keys,
        "additional_values": a.additional_values,
        "relative_position_bias": a.bias,
    }

    def attend(*, plan: CudaPlan, **operands: Any) -> jax.Array:
        return neighborhood_attention(
            **operands,
            kernel_size=window.kernel_size,
            stride=window.stride,
            dilation=window.dilation,
            is_causal=window.is_causal,
            scale=scale,
            boundary=window.boundary,
            implementation="fused",
            precision=precision,
            plan=plan,
        )

    device = "" if timer else jax.devices()[0].device_kind
    timer = timer or device_timer(attend, {k: v for k, v in operands.items() if v is not None})
    found = sorted(measure(plans.ranked, timer, rounds), key=lambda one: one.measured_ms)
    return Tuning(found[0].plan, tuple(found), device)
