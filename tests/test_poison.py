"""Poison: NaN and inf out of sight, results in dirty memory, huge, tiny and infinite scores."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from raw_calls import NOWHERE
from specification import Specification, bias_index

from jax_na._ffi import Geometry, lse_dtype

POISON = (np.nan, np.inf, -np.inf)


def line(length, window, stride=1, dilation=1, causal=False, boundary="shift", scale=0.5):
    """The geometry of one axis."""
    flags = ((False, False, causal), ("shift", "shift", boundary))
    sizes = ((1, 1, n) for n in (length, window, stride, dilation))
    return Geometry(*sizes, *flags, scale)


def plane(length, window, stride=(1, 1), dilation=(1, 1), causal=(False, False), boundary=None):
    """The geometry of two axes."""
    boundary = boundary or ("shift", "shift")
    sizes = ((1, *n) for n in (length, window, stride, dilation))
    return Geometry(*sizes, (False, *causal), ("shift", *boundary), 0.5)


# Windows that begin and end anywhere in a vector or a register tile, with every boundary.
GEOMETRIES = [
    line(40, 5),
    line(24, 1),
    line(40, 7, stride=3),
    line(41, 5, dilation=2),
    line(33, 9, causal=True),
    line(30, 9, boundary="wrap"),
    line(35, 12, stride=5, boundary="clip"),
    plane((9, 10), (3, 4), boundary=("wrap", "shift")),
    plane((8, 11), (4, 3), dilation=(2, 1), causal=(False, True)),
]


def operands_of(kernels, geometry, dtype="float32", heads=2, bias=1, additional=1, seed=0):
    """Standard normal operands of a whole grid: two query heads to a key head."""
    rng, depth = np.random.default_rng(seed), kernels.features(3)

    def normal(*shape, kind=dtype):
        return rng.standard_normal(shape).astype(jnp.dtype(kind))

    q = normal(1, *geometry.length, heads, depth)
    k, v = (normal(1, *geometry.length, heads // 2, depth) for _ in range(2))
    more_k, more_v = (normal(1, additional, heads // 2, depth) for _ in range(2))
    table = (bias, heads, *(2 * w - 1 for w in geometry.kernel_size))
    return [q, k, v, more_k, more_v, normal(*table, kind=lse_dtype(jnp.dtype(dtype))), NOWHERE]


def visible(geometry):
    """[queries, keys] of the flattened grid."""
    pairs = (bias_index(geometry, a, n, n, NOWHERE) >= 0 for a, n in enumerate(geometry.length))
    return functools.reduce(np.kron, pairs).astype(bool)


def spoiled(array):
    """Tokens of the flattened grid that hold a value that is not finite."""
    return ~np.isfinite(np.asarray(array, np.float64)).reshape(array.shape[0], -1).all(-1)


def tokens(x):
    """[1, z, y, x, ...] -> [tokens, ...]"""
    return np.asarray(x).reshape(-1, *x.shape[4:])


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("operand", ["key", "value"])
def test_a_poisoned_key_reaches_only_the_queries_that_see_it(careful_kernels, geometry, operand):
    seen = visible(geometry)
    clean = operands_of(careful_kernels, geometry)
    clean_out, clean_lse = map(tokens, careful_kernels.forward(geometry, *clean))
    for place in range(0, len(seen), 3):
        for poison in POISON:
            operands = [np.array(x) for x in clean]
            tokens(operands[1 if operand == "key" else 2])[place] = poison
            out, lse = map(tokens, careful_kernels.forward(geometry, *operands))
            unseen = ~seen[:, place]
            label = f"{poison} at {place}, seen by {np.flatnonzero(~unseen)}, "
            hit = np.flatnonzero((spoiled(out) | spoiled(lse)) & unseen)
            assert not len(hit), label + f"reached {hit}"
            np.testing.assert_array_equal(out[unseen], clean_out[unseen], label)
            np.testing.assert_array_equal(lse[unseen], clean_lse[unseen], label)
            assert spoiled(out)[~unseen].all() or not np.isnan(poison)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_a_poisoned_query_reaches_only_itself_and_the_gradients_of_its_keys(
    careful_kernels, geometry
):
    seen = visible(geometry)
    clean = operands_of(careful_kernels, geometry, bias=0, additional=0)
    rng = np.random.default_rng(1)
    rows = careful_kernels.forward(geometry, *clean)
    cotangents = [rng.standard_normal(x.shape).astype(np.float32) for x in rows]
    expected = [
        tokens(x) for x in careful_kernels.backward(geometry, *clean, *rows, *cotangents)[:3]
    ]
    for place in range(0, len(seen), 3):
        operands = [np.array(x) for x in clean]
        tokens(operands[0])[place] = np.nan
        rows = careful_kernels.forward(geometry, *operands)
        for x in rows:
            np.testing.assert_array_equal(np.flatnonzero(spoiled(tokens(x))), [place])
        found = [
            tokens(x) for x in careful_kernels.backward(geometry, *operands, *rows, *cotangents)[:3]
        ]
        others = [np.arange(len(seen)) != place, ~seen[place], ~seen[place]]
        for name, ours, theirs, mask in zip("qkv", found, expected, others, strict=True):
            hit = np.flatnonzero(spoiled(ours) & mask)
            assert not len(hit), f"query {place} reached d{name} {hit}"
            np.testing.assert_array_equal(ours[mask], theirs[mask])


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("operand", ["key", "value"])
def test_a_poisoned_key_reaches_only_the_gradients_of_what_shares_a_query(
    careful_kernels, geometry, operand
):
    seen = visible(geometry)
    operands = operands_of(careful_kernels, geometry, bias=0, additional=0)
    for place in range(0, len(seen), 5):
        poisoned = [np.array(x) for x in operands]
        tokens(poisoned[1 if operand == "key" else 2])[place] = np.nan
        rows = careful_kernels.forward(geometry, *poisoned)
        # What the queries that see it held is theirs: only what the kernel itself spreads is asked.
        gradients = careful_kernels.backward(geometry, *poisoned, *rows, *map(jnp.ones_like, rows))
        hit_keys = seen[seen[:, place]].any(0)
        for name, gradient, allowed in zip(
            "qkv", gradients, (seen[:, place], hit_keys, hit_keys), strict=False
        ):
            hit = np.flatnonzero(spoiled(tokens(gradient)) & ~allowed)
            assert not len(hit), f"key {place} reached d{name} {hit}"


# Relative errors to allow a computation in float64 or float32 whose results are of this type.
TOLERANCE = {"float64": 1e-10, "float32": 2e-5, "float16": 4e-3, "bfloat16": 3e-2}


def need(kernels, dtype):
    """Skips kernels, which a fixture draws, of a type that they are not compiled for."""
    if dtype not in kernels.dtypes:
        pytest.skip(f"{kernels} do not compute in {dtype}")


def check_against_specification(kernels, geometry, operands, backward_too=True):
    """Results and gradients of a call on NumPy operands, in the operands' type."""
    dtype = operands[0].dtype.name
    near = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype]}
    expected = Specification(geometry, *operands)
    rows = kernels.forward(geometry, *operands)
    for ours, theirs in zip(rows, (expected.out, expected.lse), strict=True):
        np.testing.assert_allclose(np.asarray(ours, np.float64), theirs, **near)
    if backward_too:
        rng = np.random.default_rng(2)
        cotangents = [rng.standard_normal(x.shape).astype(x.dtype) for x in rows]
        found = kernels.backward(geometry, *operands, *rows, *cotangents)
        for ours, theirs in zip(found, expected.gradients(*cotangents), strict=True):
            size = max(1.0, np.abs(theirs).max(initial=0))
            np.testing.assert_allclose(np.asarray(ours, np.float64) / size, theirs / size, **near)


def spoil_memory(kernels):
    """Leaves NaN in memory of all sizes that the device's allocator will hand out again."""
    if kernels.platform == "cuda":
        spoiled = [jnp.full(2**i, 0xFF, jnp.uint8) for i in range(8, 24) for _ in range(8)]
        for array in jax.block_until_ready(spoiled):
            array.delete()


def calls_in_dirty_memory(kernels):
    """Every type, with and without bias and additional tokens, in this process's memory."""
    for dtype in kernels.dtypes:
        with jax.enable_x64(dtype == "float64"):
            for i, geometry in enumerate(GEOMETRIES[::3]):
                extras = {"bias": i % 2, "additional": (2, 0, 0)[i]}
                operands = operands_of(kernels, geometry, dtype, **extras)
                spoil_memory(kernels)
                check_against_specification(kernels, geometry, operands)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc's MALLOC_PERTURB_")
def test_no_result_is_left_as_it_was_allocated(kernels):
    """All memory comes filled with 0xfe: NaN in float16, -1e38 and beyond in the other types. On a
    GPU it comes with NaN.
    """
    if kernels.platform == "cuda":
        calls_in_dirty_memory(kernels)
        return
    program = (
        "import numpy as np, raw_calls, test_poison\n"
        "assert (np.empty(1 << 16, np.uint8) == 0xFE).all()\n"
        "test_poison.calls_in_dirty_memory(raw_calls.ON_CPU)\n"
    )
    path = [os.path.dirname(__file__), *sys.path]
    environment = {"PYTHONPATH": os.pathsep.join(path), "MALLOC_PERTURB_": "1"}
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-4000:]


@pytest.mark.parametrize(
    ("dtype", "factor"),
    # Larger factors are beyond float16.
    [(t, f) for t in TOLERANCE for f in (1e4, 1e9, 1e15, 1e30) if t != "float16" or f == 1e4],
)
def test_huge_scores_pick_the_largest_and_gradients_stay_finite(kernels, dtype, factor):
    need(kernels, dtype)
    if factor > kernels.largest_factor:
        # Why, `largest_factor` says; the README states the limit.
        pytest.skip(f"{kernels} compute with scores of about {kernels.largest_factor:g} at most")
    with jax.enable_x64(dtype == "float64"):
        for geometry in GEOMETRIES[::3]:
            operands = operands_of(kernels, geometry, dtype)
            operands[0] = (operands[0] * factor).astype(operands[0].dtype)
            expected = Specification(geometry, *operands)
            rows = out, lse = kernels.forward(geometry, *operands)
            near = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype]}
            np.testing.assert_allclose(np.asarray(out, np.float64), expected.out, **near)
            np.testing.assert_allclose(lse, expected.lse, rtol=TOLERANCE[dtype])
            gradients = kernels.backward(geometry, *operands, *rows, *map(jnp.ones_like, rows))
            for gradient in gradients:
                gradient = np.asarray(gradient, np.float64)
                assert not np.isnan(gradient).any()
                # A sum over float16 queries as large as these may leave float16.
                assert np.isfinite(gradient).all() or dtype == "float16"
            # No weight exceeds 1, whatever the rounding of lse: dV is a sum over seeing queries.
            most = 2 * visible(geometry).sum(0).max()
            assert np.abs(np.asarray(gradients[2], np.float64)).max() <= most * 1.01


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_denormal_numbers(kernels, dtype):
    need(kernels, dtype)
    tiny = float(jnp.finfo(dtype).tiny) / 8
    with jax.enable_x64(dtype == "float64"):
        for geometry in GEOMETRIES[::3]:
            for place in range(3):
                operands = operands_of(kernels, geometry, dtype)
                operands[place] = (operands[place].astype(np.float64) * tiny).astype(dtype)
                check_against_specification(kernels, geometry, operands)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("additional", [0, 1])
def test_rows_whose_bias_is_minus_infinity(kernels, dtype, additional):
    """Nothing is left of the window: the additional tokens alone, or out 0 and lse -inf."""
    need(kernels, dtype)
    with jax.enable_x64(dtype == "float64"):
        for geometry in GEOMETRIES[::2]:
            operands = operands_of(kernels, geometry, dtype, additional=additional)
            operands[5][:, 0] = -np.inf
            check_against_specification(kernels, geometry, operands)
            operands = operands_of(kernels, geometry, dtype, additional=additional)
            operands[5][..., ::2] = -np.inf
            check_against_specification(kernels, geometry, operands)
