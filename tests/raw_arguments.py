"""Arguments of the custom calls: legal ones drawn at random, and what makes them legal."""

from __future__ import annotations

import dataclasses
import math
import random
from typing import Any

import jax
import numpy as np
from raw_calls import Kernels
from specification import Specification

from jax_na import _ffi
from jax_na._window import BOUNDARIES

ARRAYS = ("length", "kernel_size", "stride", "dilation", "is_causal", "boundary")
INPUTS = ("query", "key", "value", "additional_keys", "additional_values", "relative_position_bias")
FORWARD = {"inputs": (*INPUTS, "origins"), "results": ("out", "lse")}
BACKWARD = {
    "inputs": (*INPUTS, "origins", "out", "lse", "dout", "dlse"),
    "results": ("dquery", "dkey", "dvalue", "dadditional_keys", "dadditional_values", "dbias"),
}
KINDS = {"forward": FORWARD, "backward": BACKWARD}
LONGEST = 2**29 - 1  # of an axis


@dataclasses.dataclass
class Call:
    """A raw call: its operands by name, the types of its results, and its attributes."""

    kernels: Kernels
    kind: str
    inputs: dict[str, np.ndarray]
    results: list[tuple[tuple[int, ...], Any]]
    attributes: dict[str, Any]

    def run(self) -> list[np.ndarray]:
        results = [jax.ShapeDtypeStruct(*result) for result in self.results]
        target = _ffi.TARGETS[self.kernels.platform, self.kernels.implementation]
        call = jax.ffi.ffi_call(f"{target}_{self.kind}", results)
        return [np.asarray(x) for x in call(*self.inputs.values(), **self.attributes)]

    def geometry(self) -> _ffi.Geometry:
        axes = [tuple(self.attributes[name].tolist()) for name in ARRAYS]
        axes[4] = tuple(map(bool, axes[4]))
        axes[5] = tuple(BOUNDARIES[i] for i in axes[5])
        return _ffi.Geometry(*axes, float(self.attributes["scale"]))

    def fill_rows(self, rng: np.random.Generator) -> None:
        """Gives a backward call the forward call's results, so that its own mean something."""
        q, v = self.inputs["query"], self.inputs["value"]
        shape, compute = (*q.shape[:-1], v.shape[-1]), _ffi.lse_dtype(q.dtype)
        found = Specification(self.geometry(), *list(self.inputs.values())[:7])
        for name, value in {
            "out": found.out.astype(q.dtype),
            "lse": found.lse.astype(compute),
            "dout": rng.standard_normal(shape).astype(q.dtype),
            "dlse": rng.standard_normal(shape[:-1]).astype(compute),
        }.items():
            self.inputs[name] = value

    def options(self) -> dict[str, Any]:
        """The attributes that say how exact kernels are to be, and the like."""
        exact = _ffi.Options(jax.lax.Precision.HIGHEST)
        return exact.attributes(
            self.kernels.platform,
            self.kernels.implementation,
            self.kind,
            self.inputs["query"].dtype,
        )

    def workspace(self) -> list[tuple[tuple[int, ...], Any]]:
        """The result that is scratch space, where the call has one. The call is legal."""
        options = _ffi.Options(deterministic=bool(self.attributes.get("deterministic", 0)))
        size = _ffi.workspace_size(
            self.geometry(),
            self.kernels.platform,
            self.kernels.implementation,
            self.kind,
            options,
            *list(self.inputs.values())[:6],
        )
        return [] if size is None else [((size,), np.dtype(np.uint8))]


def result_types(kind: str, shapes: dict[str, tuple[int, ...]], dtype: Any) -> list[tuple]:
    """What a call has to announce, from the shapes of its inputs; but for a workspace."""
    compute = _ffi.lse_dtype(dtype)
    query, value, bias = (shapes[n] for n in ("query", "value", "relative_position_bias"))
    if kind == "forward":
        return [((*query[:-1], value[-1]), dtype), (query[:-1], compute)]
    dbias = (query[0] if bias[0] else 0, *bias[1:])
    return [*((shapes[name], dtype) for name in INPUTS[:5]), (dbias, compute)]


def valid_call(kernels: Kernels, kind: str, rng: random.Random) -> Call:
    """A legal call on small slabs."""
    numbers = np.random.default_rng(rng.getrandbits(32))
    axes, grids, origins = [], [], []
    for _ in range(3):
        length = rng.choice((1, 2, 3, 4, 6))
        d = rng.choice([d for d in (1, 2) if length % d == 0])
        w = rng.randint(1, length // d)
        boundary = rng.randrange(3)
        axes.append((length, w, rng.randint(1, w), d, rng.randrange(2) * (boundary < 2), boundary))
        q, k = (sorted(rng.sample(range(length + 1), 2)) for _ in range(2))
        if rng.random() < 0.6:
            q = k = (0, length)
        if rng.random() < 0.02:
            q = (q[0], q[0])
        grids.append((q[1] - q[0], k[1] - k[0]))
        origins.append((q[0], k[0]))
    (nq, nk), batch, kv_heads = zip(*grids, strict=True), rng.choice((1, 2)), rng.choice((1, 2))
    if rng.random() < 0.04:
        batch = 0
    heads = kv_heads * rng.choice((1, 2))
    depth, width = (kernels.features(rng.choice(sizes)) for sizes in ((1, 3, 9), (2, 8)))
    tokens, biases = rng.choice((0, 2)), rng.choice((0, 1, batch))
    dtype = jax.numpy.dtype(rng.choice(kernels.dtypes))
    shapes = {
        "query": (batch, *nq, heads, depth),
        "key": (batch, *nk, kv_heads, depth),
        "value": (batch, *nk, kv_heads, width),
        "additional_keys": (batch, tokens, kv_heads, depth),
        "additional_values": (batch, tokens, kv_heads, width),
        "relative_position_bias": (biases, heads, *(2 * axis[1] - 1 for axis in axes)),
    }
    inputs = {name: numbers.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}
    bias = inputs["relative_position_bias"]
    inputs["relative_position_bias"] = bias.astype(_ffi.lse_dtype(dtype))
    inputs["origins"] = np.array(origins, np.int32).T.copy()
    attributes: dict[str, Any] = {
        name: np.array(values, np.int64)
        for name, values in zip(ARRAYS, zip(*axes, strict=True), strict=True)
    }
    attributes["scale"] = np.float64(rng.choice((0.0, 0.4, -2.0)))
    call = Call(kernels, kind, inputs, result_types(kind, shapes, dtype), attributes)
    attributes |= call.options()
    call.results += call.workspace()
    if kind == "backward":
        call.fill_rows(numbers)
    return call


def legal(call: Call, in_memory: bool = True) -> bool:
    """Whether a call keeps every rule of the custom calls; written apart from the handlers.

    Without `in_memory` the values of the origins do not count, which are in a device's memory.
    """
    names, a, x = KINDS[call.kind], call.attributes, call.inputs
    if tuple(x) != names["inputs"]:
        return False
    options = call.options()
    if set(a) != {*ARRAYS, "scale", *options} or not isinstance(a["scale"], np.float64):
        return False
    if any(np.shape(a[n]) != np.shape(options[n]) for n in options):
        return False
    if any(getattr(a[n], "dtype", None) != np.int64 for n in options):
        return False
    if any(getattr(a[n], "dtype", None) != np.int64 or a[n].shape != (3,) for n in ARRAYS):
        return False
    query, key, value, bias = (
        x[n].shape for n in ("query", "key", "value", "relative_position_bias")
    )
    dtype, more = x["query"].dtype, x["additional_keys"].shape
    if dtype.name not in call.kernels.dtypes:
        return False
    if call.kernels.on_tensor_cores and dtype != np.float32 and a["precision"] != 0:
        return False  # products of 16-bit numbers are exact in any case
    if {len(query), len(key), len(value)} != {6} or len(more) != 4 or len(bias) != 5:
        return False
    origins = x["origins"]
    if origins.dtype != np.int32 or origins.shape != (2, 3):
        return False
    for axis in range(3):
        length, w, s, d, causal, boundary = (int(a[name][axis]) for name in ARRAYS)
        if not (1 <= length <= LONGEST and d >= 1 and 1 <= s <= w and w * d <= length):
            return False
        if causal not in (0, 1) or boundary not in (0, 1, 2):
            return False
        if boundary == 2 and (causal or length % d):
            return False
        halo = length if boundary == 2 else 0
        (nq, nk), (q, k) = (query[1 + axis], key[1 + axis]), map(int, origins[:, axis])
        if not (nq <= length and 1 <= nk <= length + 2 * halo):
            return False
        if not in_memory:
            continue
        if not (0 <= q <= q + nq <= length and -halo <= k <= k + nk <= length + halo):
            return False
        if boundary == 2 and nq == nk == length and k:
            return False  # a circle that both hold whole is not unwrapped
    batch, heads, kv_heads = query[0], query[4], key[4]
    if min(heads, kv_heads, query[5], value[5]) < 1 or heads % kv_heads:
        return False
    if any(call.kernels.features(count) != count for count in (query[5], value[5])):
        return False
    compute = _ffi.lse_dtype(dtype)
    out = (*query[:-1], value[5])
    expected = {
        "key": ((batch, *key[1:5], query[5]), dtype),
        "value": ((batch, *key[1:5], value[5]), dtype),
        "additional_keys": ((batch, more[1], kv_heads, query[5]), dtype),
        "additional_values": ((batch, more[1], kv_heads, value[5]), dtype),
        "relative_position_bias": (
            (bias[0], heads, *(2 * int(w) - 1 for w in a["kernel_size"])),
            compute,
        ),
    } | {"out": (out, dtype), "lse": (out[:-1], compute)}
    expected |= {"dout": expected["out"], "dlse": expected["lse"]}
    if bias[0] not in (0, 1, batch):
        return False
    if any((x[n].shape, x[n].dtype) != expected[n] for n in expected if n in x):
        return False
    shapes = {name: operand.shape for name, operand in x.items()}
    expected_results = result_types(call.kind, shapes, dtype)
    if call.results[: len(expected_results)] != expected_results:
        return False
    more, needed = call.results[len(expected_results) :], call.workspace()
    if 0 in out:  # nothing is launched
        return len(more) == len(needed)
    return len(more) == len(needed) and all(
        math.prod(shape) * dtype.itemsize >= math.prod(least[0])
        for (shape, dtype), least in zip(more, needed, strict=True)
    )
