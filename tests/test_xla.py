"""The pure-JAX implementation: against the specification, derivatives of any order,
transformations, memory.
"""

import dataclasses
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from jax.test_util import check_grads
from problems import PROBLEMS, REAL, Problem, make_inputs, problems

from jax_na import _tiles, _xla
from jax_na._reference import reference_attention
from jax_na._window import Window


def attend(problem, *arrays):
    """The implementation under test, on arrays with any number of batch axes."""
    rank = problem.window.rank
    batch = arrays[0].shape[: -rank - 2]
    flat: list[Any] = [
        x if x is None or i == 5 else x.reshape(math.prod(batch), *x.shape[len(batch) :])
        for i, x in enumerate(arrays)
    ]
    scale = problem.head_dim**-0.5 if problem.scale is None else problem.scale
    out, lse = _xla.attention(*flat, window=problem.window, scale=scale)
    return out.reshape(*batch, *out.shape[1:]), lse.reshape(*batch, *lse.shape[1:])


def check(problem):
    inputs = make_inputs(problem, "float64")
    with jax.enable_x64(True):
        function = jax.jit(lambda *arrays: attend(problem, *arrays))
        out, lse = function(*inputs.arrays())
    expected, expected_lse = reference_attention(
        *inputs.main, problem.window, scale=problem.scale, **inputs.extras()
    )
    assert out.shape == expected.shape
    assert out.dtype == lse.dtype == np.float64
    np.testing.assert_allclose(out, expected, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(lse, expected_lse, rtol=1e-11, atol=1e-11)


@pytest.fixture
def tiny_budget(monkeypatch):
    """Makes small problems walk over chunks as large ones do."""
    monkeypatch.setattr(_xla, "CPU", dataclasses.replace(_tiles.CPU, tile=0.0, budget=600))


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_specification(problem):
    check(problem)


LOOPS = [
    p
    for p in PROBLEMS
    if p.name in ("2d-everything", "3d-everything", "audio-dilated", "2d-boundaries")
]


@pytest.mark.parametrize("problem", LOOPS, ids=str)
@pytest.mark.usefixtures("tiny_budget")
def test_chunks(problem):
    check(problem)


@settings(max_examples=12, deadline=None)
@given(problems())
def test_random_problems(problem):
    check(problem)


def test_every_cut_serves_every_query():
    """Slabs hold the windows of their blocks whatever the block size, and idle queries see one
    key.
    """
    for window, length in [
        (Window(5), 23),
        (Window(6, 4, 2), 31),
        (Window(6, 4, 2, True), 31),
        (Window(7, 3, 1, False, "clip"), 20),
        (Window(8, 5, 2, False, "wrap"), 24),
        (Window(9, 9), 50),
    ]:
        start, end = (np.asarray(x) for x in window.intervals((length,), 0))
        for block in range(1, length + 1):
            cut = _tiles.axis_tiles(window, length, 0, block)
            cut = cut.with_blocks(cut.blocks + 2)
            assert cut.starts.min() >= 0
            assert cut.starts.max() + cut.slab <= cut.padded
            assert cut.begin.min() >= 0
            assert cut.end.max() <= cut.slab
            assert np.all(cut.begin < cut.end)
            for token in range(length):
                position, phase = divmod(token, cut.phases)
                at = phase % cut.begin.shape[0], position // block, position % block
                first = cut.starts[at[1]] - cut.left
                assert cut.begin[at] + first == start[token]
                assert cut.end[at] + first == end[token]


@pytest.mark.parametrize("problem", [p for p in REAL if p.dtype != "float32"], ids=str)
def test_error_in_half_precision(problem):
    """At most twice that of dense attention in the same precision, both against float64."""
    inputs = make_inputs(problem)
    out, lse = jax.jit(lambda *arrays: attend(problem, *arrays))(*inputs.arrays())
    assert out.dtype == problem.dtype
    assert lse.dtype == jnp.float32
    expected, expected_lse = reference_attention(
        *inputs.main, problem.window, scale=problem.scale, **inputs.extras()
    )
    plain = plain_attention(problem, *inputs.arrays())
    error = np.abs(np.asarray(out, np.float64) - expected).max()
    allowed = np.abs(np.asarray(plain, np.float64) - expected).max()
    assert error <= 2 * allowed + 1e-6
    np.testing.assert_allclose(lse, expected_lse, rtol=1e-4, atol=1e-4)


def plain_attention(problem, query, key, value, more_keys, more_values, bias):
    """Masked dense attention of problems without bias: products in the given type, softmax in
    float32.
    """
    assert bias is None
    repeats = problem.heads // problem.kv_heads
    mask = np.stack(
        [problem.window.visible(problem.spatial, at).ravel() for at in np.ndindex(problem.spatial)]
    )
    tokens = len(mask)
    query, key, value = (
        jnp.asarray(x).reshape(-1, tokens, x.shape[-2], x.shape[-1]) for x in (query, key, value)
    )
    if more_keys is not None:
        key = jnp.concatenate([key, more_keys], 1)
        value = jnp.concatenate([value, more_values], 1)
        mask = np.pad(mask, ((0, 0), (0, more_keys.shape[-3])), constant_values=True)
    key, value = (jnp.repeat(x, repeats, axis=-2) for x in (key, value))
    scores = jnp.einsum("bqnd,bknd->bnqk", query, key, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(jnp.where(mask, scores * problem.head_dim**-0.5, -jnp.inf))
    out = jnp.einsum("bnqk,bknd->bqnd", weights.astype(value.dtype), value)
    return out.reshape(*problem.batch, *problem.spatial, problem.heads, problem.value_dim)


GRADIENTS = [
    Problem(
        "1d",
        (9,),
        (4,),
        stride=(3,),
        heads=2,
        kv_heads=1,
        head_dim=2,
        value_dim=3,
        additional=2,
        bias=True,
    ),
    Problem(
        "1d-causal",
        (8,),
        (3,),
        dilation=(2,),
        is_causal=(True,),
        head_dim=2,
        value_dim=2,
        bias=True,
    ),
    Problem(
        "2d",
        (4, 6),
        (3, 3),
        dilation=(1, 2),
        boundary=("clip", "wrap"),
        head_dim=2,
        value_dim=2,
        bias=True,
    ),
    Problem("3d", (2, 3, 4), (2, 2, 3), heads=2, kv_heads=2, head_dim=2, value_dim=2, additional=1),
]


@pytest.mark.parametrize(
    ("problem", "budget", "order"),
    [
        (GRADIENTS[0], None, 1),
        (GRADIENTS[0], 300, 1),
        (GRADIENTS[1], None, 2),
        (GRADIENTS[1], 100, 2),
        (GRADIENTS[2], None, 1),
        (GRADIENTS[2], 300, 1),
        (GRADIENTS[3], None, 1),
    ],
    ids=str,
)
def test_derivatives(problem, budget, order, monkeypatch):
    if budget is not None:
        monkeypatch.setattr(_xla, "CPU", dataclasses.replace(_tiles.CPU, tile=0.0, budget=budget))
    inputs = make_inputs(problem, "float64")
    given = [x for x in inputs.arrays() if x is not None]

    @jax.jit
    def function(*arrays):
        arrays = iter(arrays)
        return attend(problem, *(None if x is None else next(arrays) for x in inputs.arrays()))

    with jax.enable_x64(True):
        check_grads(function, given, order=order, modes=("fwd", "rev") if budget is None else "rev")


@pytest.mark.usefixtures("tiny_budget")
def test_vmap_and_scan():
    problem = Problem("vmap", (12,), (5,), batch=(2,), heads=2, kv_heads=1, additional=1, bias=True)
    inputs = [make_inputs(problem, seed=seed).arrays() for seed in range(3)]
    stacked = [jnp.stack(x) for x in zip(*inputs, strict=True)]

    @jax.jit
    def function(*arrays):
        return attend(problem, *arrays)

    @jax.jit
    def gradient(*arrays):
        return jax.grad(lambda *a: function(*a)[0].sum(), tuple(range(6)))(*arrays)

    @jax.jit
    def scanned(*arrays):
        return jax.lax.scan(lambda carry, a: (carry, function(*a)), 0, arrays)[1]

    each = [function(*arrays) for arrays in inputs]
    for out, lse in (jax.jit(jax.vmap(function))(*stacked), scanned(*stacked)):
        np.testing.assert_allclose(out, [x for x, _ in each], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(lse, [x for _, x in each], rtol=1e-5, atol=1e-5)
    grads = jax.jit(jax.vmap(gradient))(*stacked)
    for many, single in zip(grads, gradient(*inputs[1]), strict=True):
        np.testing.assert_allclose(many[1], single, rtol=1e-4, atol=1e-5)


def test_huge_scores():
    problem = Problem("huge", (20,), (5,), bias=True, scale=1.0)
    arrays = list(make_inputs(problem, "float32").arrays())
    arrays[0] = arrays[0] * 1e4
    out, lse = jax.jit(lambda *arrays: attend(problem, *arrays))(*arrays)
    expected, expected_lse = reference_attention(
        arrays[0],
        arrays[1],
        arrays[2],
        problem.window,
        scale=1.0,
        relative_position_bias=arrays[5],
    )
    np.testing.assert_allclose(out, expected, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(lse, expected_lse, rtol=1e-5)


def test_bias_that_hides_every_key():
    problem = Problem("hidden", (6,), (3,))
    query, key, value, *_ = make_inputs(problem).arrays()
    bias = np.full((1, 5), -np.inf, np.float32)

    @jax.jit
    def function(query, key, value):
        return attend(problem, query, key, value, None, None, bias)

    (out, lse), transpose = jax.vjp(function, query, key, value)
    np.testing.assert_array_equal(out, np.zeros_like(out))
    np.testing.assert_array_equal(lse, np.full_like(lse, -np.inf))
    for grad in transpose((jnp.ones_like(out), jnp.ones_like(lse))):
        np.testing.assert_array_equal(grad, np.zeros_like(grad))


def compiled_memory(tokens, gradient):
    shape = jax.ShapeDtypeStruct((1, tokens, 2, 32), jnp.float32)

    def forward(query, key, value):
        return _xla.attention(query, key, value, None, None, None, window=Window(128), scale=1.0)[0]

    def backward(query, key, value):
        return jax.grad(lambda *x: (forward(*x) ** 2).sum(), (0, 1, 2))(query, key, value)

    compiled = jax.jit(backward if gradient else forward).lower(shape, shape, shape).compile()
    memory, text = compiled.memory_analysis(), compiled.as_text()
    assert memory is not None
    assert text is not None
    return memory.temp_size_in_bytes, text


@pytest.mark.parametrize("gradient", [False, True])
def test_memory_grows_with_tokens_not_their_square(gradient):
    """Doubling the tokens at most doubles what is held; nothing of [tokens, tokens] exists."""
    few, text = compiled_memory(8192, gradient)
    many, _ = compiled_memory(16384, gradient)
    tensor = 4 * 8192 * 2 * 32
    assert few < 16 * tensor + 4 * _tiles.CPU.budget
    assert many < 2.1 * few
    shapes = re.findall(r"\[([\d,]+)\]", text)
    sizes = [math.prod(int(n) for n in shape.split(",")) for shape in shapes]
    assert max(sizes) < 8192 * 8192 // 8


def test_tiles_of_real_problems_fit_the_budget():
    for spatial, window in [
        ((256, 256), Window((80, 80))),
        ((30, 48, 80), Window((18, 24, 24))),
        ((32768,), Window(2048)),
        ((256, 256), Window((7, 7), dilation=16)),
    ]:
        for cost in (_tiles.CPU, _tiles.ACCELERATOR):
            tiles = _tiles.choose_tiles(window, spatial, 1, 256, 4, cost)
            rows = math.prod(t.block for t in tiles)
            columns = math.prod(t.slab for t in tiles)
            least = math.prod(window.sizes)
            assert 4 * rows * columns <= max(cost.budget, 4 * least * 16)
            assert columns < 10 * least
