"""na_qk and na_av: slot order, invisible slots, and that softmax between them is the attention."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads
from problems import SMALL, Problem, make_inputs, problems

import jax_na
from jax_na._reference import reference_attention, window_interval


def window_and_scale(problem):
    call = problem.call()
    return {k: v for k, v in call.items() if k != "scale"}, problem.scale


def scores_of(problem, inputs):
    window, scale = window_and_scale(problem)
    return jax_na.na_qk(
        inputs.query,
        inputs.key,
        **window,
        scale=scale,
        additional_keys=inputs.additional_keys,
        relative_position_bias=inputs.bias,
    )


def attend(problem, inputs):
    window, _ = window_and_scale(problem)
    weights = jax.nn.softmax(scores_of(problem, inputs), axis=-1)
    return jax_na.na_av(weights, inputs.value, **window, additional_values=inputs.additional_values)


def compiled(problem, inputs):
    def function(*arrays):
        inside = type(inputs)(*arrays)
        lse = jax.nn.logsumexp(scores_of(problem, inside), axis=-1)
        return attend(problem, inside), lse

    return jax.jit(function)


def check(problem):
    inputs = make_inputs(problem, "float64")
    with jax.enable_x64(True):
        out, lse = compiled(problem, inputs)(*inputs.arrays())
    expected, expected_lse = reference_attention(
        *inputs.main, problem.window, scale=problem.scale, **inputs.extras()
    )
    assert out.shape == expected.shape
    np.testing.assert_allclose(out, expected, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(lse, expected_lse, rtol=1e-11, atol=1e-11)


CHECKED = [p for p in SMALL if p.name not in ("1d-even", "1d-blocked", "1d-batches", "3d")]


@pytest.mark.parametrize("problem", CHECKED, ids=str)
def test_softmax_between_them_is_the_attention(problem):
    check(problem)


@settings(max_examples=8, deadline=None)
@given(problems(max_tokens=60))
def test_random_problems(problem):
    check(problem)


@pytest.mark.parametrize(
    "problem",
    [
        Problem("shift", (9,), (4,), stride=(3,), dilation=(2,)),
        Problem("clip", (9,), (4,), stride=(3,), dilation=(2,), boundary=("clip",)),
        Problem("wrap", (10,), (4,), stride=(3,), dilation=(2,), boundary=("wrap",)),
        Problem("causal", (9,), (4,), stride=(3,), dilation=(2,), is_causal=(True,)),
    ],
    ids=str,
)
def test_slots_in_order(problem):
    """With keys that count the tokens and queries of one, scores are the numbers of the tokens."""
    (length,), (w,), (s,), (d,) = (
        problem.spatial,
        problem.kernel_size,
        problem.stride,
        problem.dilation,
    )
    window, _ = window_and_scale(problem)
    key = np.arange(length, dtype=np.float32)[:, None, None]
    scores = jax_na.na_qk(np.ones_like(key), key, **window, scale=1.0)
    assert scores.shape == (length, 1, w)
    for i in range(length):
        start, end = window_interval(i, length, w, s, d, *problem.is_causal, *problem.boundary)
        j, group_length = i // d, len(range(i % d, length, d))
        if problem.is_causal[0]:
            first = min(j // s * s + s - 1, group_length - 1) - w + 1
        elif problem.boundary[0] == "clip":
            first = min(j // s * s + s // 2, group_length - 1) - w // 2
        else:
            first = start
        for t in range(w):
            visible = start <= first + t < end
            token = (first + t) % group_length * d + i % d
            assert scores[i, 0, t] == (token if visible else -np.inf)


def test_slots_are_row_major_and_additional_keys_last():
    key = np.arange(12, dtype=np.float32).reshape(3, 4, 1, 1)
    scores = jax_na.na_qk(
        np.ones_like(key),
        key,
        (3, 2),
        scale=1.0,
        additional_keys=np.full((2, 1, 1), 99.0, np.float32),
    )
    np.testing.assert_array_equal(scores[1, 1, 0], [0, 1, 4, 5, 8, 9, 99, 99])


def test_invisible_slots_are_ignored_whatever_they_hold():
    value = np.random.default_rng(0).standard_normal((6, 1, 2)).astype(np.float32)
    visible = np.isfinite(jax_na.na_qk(value, value, (3,), is_causal=True))
    weights = np.where(visible, 0.5, np.nan).astype(np.float32)
    out, transpose = jax.vjp(lambda w, v: jax_na.na_av(w, v, (3,), is_causal=True), weights, value)
    clean = jax_na.na_av(np.where(visible, 0.5, 0).astype(np.float32), value, (3,), is_causal=True)
    np.testing.assert_array_equal(out, clean)
    dweights, dvalue = transpose(out)
    assert np.all(np.isfinite(dvalue))
    np.testing.assert_array_equal(dweights[~visible], 0)


GRADIENTS = [
    Problem(
        "1d",
        (7,),
        (3,),
        stride=(2,),
        heads=2,
        kv_heads=1,
        head_dim=2,
        value_dim=3,
        additional=1,
        bias=True,
    ),
    Problem(
        "2d", (4, 6), (2, 3), dilation=(1, 2), boundary=("clip", "wrap"), head_dim=2, value_dim=2
    ),
]


@pytest.mark.parametrize("problem", GRADIENTS, ids=str)
def test_derivatives(problem):
    inputs = make_inputs(problem, "float64")
    given = [x for x in inputs.arrays() if x is not None]

    function = compiled(problem, inputs)

    def given_only(*arrays):
        arrays = iter(arrays)
        return function(*(None if x is None else next(arrays) for x in inputs.arrays()))

    with jax.enable_x64(True):
        check_grads(given_only, given, order=1, modes=("fwd", "rev"))


@pytest.mark.parametrize("how", [AxisType.Auto, AxisType.Explicit, "shard_map"])
def test_sharded_batch(how):
    by_map = how == "shard_map"
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto if by_map else how,))
    problem = Problem("sharded", (5, 6), (3, 3), heads=2, kv_heads=1, batch=(2,))
    given = make_inputs(problem)
    operands = (given.query, given.key, given.value)

    def out(query, key, value):
        scores = jax_na.na_qk(query, key, (3, 3), implementation="xla")
        return jax_na.na_av(jax.nn.softmax(scores), value, (3, 3), implementation="xla")

    split = P("data")
    sharded = jax.shard_map(out, mesh=mesh, in_specs=split, out_specs=split) if by_map else out
    loss = [lambda *x, f=f: jnp.sum(f(*x) ** 2) for f in (out, sharded)]
    expected = jax.value_and_grad(loss[0], (0, 1, 2))(*operands)
    with jax.set_mesh(mesh):
        operands = [jax.device_put(x, NamedSharding(mesh, split)) for x in operands]
        got = jax.jit(jax.value_and_grad(loss[1], (0, 1, 2)))(*operands)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_second_derivative():
    problem = Problem("second", (5,), (3,), is_causal=(True,), head_dim=2, value_dim=2)
    inputs = make_inputs(problem, "float64")
    with jax.enable_x64(True):
        function = compiled(problem, inputs)
        check_grads(lambda *main: function(*main, None, None, None), inputs.main, 2, "rev")


def test_memory_is_outputs_and_a_copy_of_the_keys():
    """A copy of the keys per slot would be 49 times 64 features; what there is, is a few times the
    scores.
    """
    shape = jax.ShapeDtypeStruct((32, 32, 1, 64), jnp.float32)

    def gradient(query, key, value):
        def loss(query, key, value):
            weights = jax.nn.softmax(jax_na.na_qk(query, key, (7, 7)))
            return (jax_na.na_av(weights, value, (7, 7)) ** 2).sum()

        return jax.grad(loss, (0, 1, 2))(query, key, value)

    memory = jax.jit(gradient).lower(shape, shape, shape).compile().memory_analysis()
    assert memory is not None
    tensor, scores = 4 * 32 * 32 * 64, 4 * 32 * 32 * 49
    assert memory.temp_size_in_bytes < 12 * scores + 16 * tensor < 49 * tensor


@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
def test_types(kind):
    problem = Problem("half", (9,), (3,), additional=2, bias=True, dtype=kind)
    inputs = make_inputs(problem)
    assert jax.eval_shape(lambda: scores_of(problem, inputs)).dtype == kind
    out, _ = compiled(problem, inputs)(*inputs.arrays())
    assert out.dtype == kind
    expected, _ = reference_attention(*inputs.main, problem.window, **inputs.extras())
    assert np.abs(np.asarray(out, np.float64) - expected).max() < 0.05


X = np.ones((6, 2, 4), np.float32)
HALF: Any = (2.5,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: jax_na.na_qk(X, X, (3, 3)), "query should have at least 4 dimensions"),
        (lambda: jax_na.na_qk(X, X, HALF), r"kernel_size\[0\] should be an integer"),
        (lambda: jax_na.na_qk(X, X, (7,)), r"kernel_size\[0\] should be between 1 and 6.*7"),
        (lambda: jax_na.na_qk(X, X[:5], (3,)), "key shape should be"),
        (lambda: jax_na.na_qk(X, X, (3,), precision="exact"), "precision should be"),
        (lambda: jax_na.na_av(X, X, (3,)), r"weights shape should be \(6, 2, 3\).*\(6, 2, 4\)"),
        (lambda: jax_na.na_av(X[..., :3], X[0], (3,)), "value should have at least 3 dimensions"),
        (
            lambda: jax_na.na_av(X[..., :3], np.ones((6, 3, 4), np.float32), (3,)),
            "value should have a number of heads that divides the 2 of weights.*3",
        ),
        (
            lambda: jax_na.na_av(X[..., :3], X, (3,), additional_values=X[:1, :1]),
            "additional_values shape should be",
        ),
        (
            lambda: jax_na.na_av(X[..., :3], X, (3,), additional_values=X[0, 0]),
            "additional_values should have dimensions",
        ),
        (
            lambda: jax_na.na_av(X, X, (3,), additional_values=X[:1].astype(np.float16)),
            "additional_values should be of value's type float32, but got float16",
        ),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
