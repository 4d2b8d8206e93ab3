"""The fused implementation: values against the specification, properties, precision, threads."""

import concurrent.futures
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from problems import PROBLEMS, Problem, make_inputs, problems

import jax_na
from jax_na import _core
from jax_na._reference import reference_attention


def attend(problem, inputs, implementation="fused"):
    return jax_na.neighborhood_attention(
        inputs.query,
        inputs.key,
        inputs.value,
        **problem.call(),
        **inputs.extras(),
        implementation=implementation,
        return_lse=True,
    )


def expect(problem, inputs):
    arrays = (inputs.query, inputs.key, inputs.value)
    return reference_attention(*arrays, problem.window, scale=problem.scale, **inputs.extras())


def check(problem):
    inputs = make_inputs(problem, "float64")
    with jax.enable_x64(True):
        out, lse = attend(problem, inputs)
    expected, expected_lse = expect(problem, inputs)
    assert out.shape == expected.shape
    assert out.dtype == lse.dtype == np.float64
    np.testing.assert_allclose(out, expected, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(lse, expected_lse, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_specification(problem):
    check(problem)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(problems())
def test_random_problems(problem):
    check(problem)


def dense(problem, inputs):
    """A plain masked implementation in the inputs' own type, scores in the type they compute in."""
    p, w = problem, problem.window
    tokens = int(np.prod(p.spatial))
    seen = np.stack([w.visible(p.spatial, q).ravel() for q in np.ndindex(*p.spatial)])
    compute = jnp.float64 if inputs.query.dtype == np.float64 else jnp.float32

    def flat(x):
        return jnp.asarray(x).reshape(-1, tokens, *x.shape[-2:])

    q, k, v = flat(inputs.query), flat(inputs.key), flat(inputs.value)
    k, v = (jnp.repeat(x, p.heads // p.kv_heads, 2) for x in (k, v))
    scores = jnp.einsum("bqnd,bknd->bnqk", q, k, preferred_element_type=compute) * p.head_dim**-0.5
    weights = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf)).astype(v.dtype)
    out = jnp.einsum("bnqk,bknd->bqnd", weights, v, preferred_element_type=compute)
    return out.astype(v.dtype).reshape(*inputs.query.shape[:-1], -1)


PLAIN = [p for p in PROBLEMS if p.additional is None and not p.bias and p.scale is None]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("factor", [1.0, 30.0, 1e-4])
def test_error_is_at_most_twice_that_of_a_plain_implementation(dtype, factor):
    errors = []
    for problem in PLAIN[::4]:
        inputs = make_inputs(problem, dtype)
        inputs.query = (inputs.query * factor).astype(inputs.query.dtype)
        names = ("query", "key", "value")
        wide = {name: getattr(inputs, name).astype(np.float64) for name in names}
        exact, _ = expect(problem, dataclasses.replace(inputs, **wide))
        results = (attend(problem, inputs)[0], dense(problem, inputs))
        errors.append([np.sum((np.asarray(x, np.float64) - exact) ** 2) for x in results])
    ours, plain = np.sqrt(np.sum(errors, 0))  # over all problems: one alone is a matter of luck
    assert ours <= 2 * plain


def test_huge_logits_pick_the_largest():
    rng = np.random.default_rng(0)
    query, key, value = (rng.standard_normal((1, 20, 2, 4)).astype(np.float32) for _ in range(3))
    out, lse = jax_na.na1d(query * 1e15, key * 1e15, value, 5, return_lse=True)
    assert np.isfinite(out).all()
    assert np.isfinite(lse).all()
    expected, _ = reference_attention(
        query.astype(np.float64) * 1e15, key.astype(np.float64) * 1e15, value, jax_na.Window((5,))
    )
    np.testing.assert_allclose(out, expected, rtol=1e-6)


def test_window_of_one_returns_value():
    value = np.random.default_rng(0).standard_normal((2, 5, 6, 3, 4)).astype(np.float32)
    np.testing.assert_array_equal(jax_na.na2d(value, value, value, 1), value)


def test_whole_axis_is_dense_attention():
    q, k, v = np.random.default_rng(0).standard_normal((3, 2, 4, 5, 3, 8)).astype(np.float32)
    flat = (x.reshape(2, 20, 3, 8) for x in (q, k, v))
    expected = jax.nn.dot_product_attention(*map(jnp.asarray, flat)).reshape(q.shape)
    for stride in (1, 3):
        out = jax_na.na2d(q, k, v, None, stride)
        np.testing.assert_allclose(out, expected, rtol=2e-5, atol=2e-6)


def test_stride_of_the_window_is_blocked_attention():
    q, k, v = np.random.default_rng(0).standard_normal((3, 1, 12, 2, 8)).astype(np.float32)
    blocks = (jnp.asarray(x.reshape(3, 4, 2, 8)) for x in (q, k, v))
    expected = jax.nn.dot_product_attention(*blocks).reshape(q.shape)
    np.testing.assert_allclose(jax_na.na1d(q, k, v, 4, 4), expected, rtol=2e-5, atol=2e-6)


def test_periodic_axis_is_equivariant_to_translation():
    q, k, v = np.random.default_rng(0).standard_normal((3, 1, 6, 9, 2, 4)).astype(np.float32)
    moved = (np.roll(x, (2, -4), (1, 2)) for x in (q, k, v))
    out = jax_na.na2d(q, k, v, (3, 4), boundary="wrap")
    np.testing.assert_allclose(
        jax_na.na2d(*moved, (3, 4), boundary="wrap"), np.roll(out, (2, -4), (1, 2)), atol=1e-6
    )


def test_heads_are_independent():
    q, k, v = np.random.default_rng(0).standard_normal((3, 1, 11, 5, 4)).astype(np.float32)
    order = np.array([3, 0, 4, 1, 2])
    out = jax_na.na1d(q, k, v, 4)
    moved = jax_na.na1d(q[:, :, order], k[:, :, order], v[:, :, order], 4)
    np.testing.assert_array_equal(moved, out[:, :, order])


def test_tokens_far_outside_the_window_have_no_influence():
    q, k, v = np.random.default_rng(0).standard_normal((3, 1, 40, 1, 4)).astype(np.float32)
    out = jax_na.na1d(q, k, v, 5)
    k[:, 20], v[:, 20] = np.nan, np.inf
    changed = np.isnan(jax_na.na1d(q, k, v, 5)).any((0, 2, 3))
    assert changed[18:23].all()
    # A register tile has up to four neighbouring queries.
    assert not changed[: 18 - 3].any()
    assert not changed[23 + 3 :].any()
    np.testing.assert_array_equal(jax_na.na1d(q, k, v, 5)[:, :15], out[:, :15])


def test_results_do_not_depend_on_the_thread():
    problem = next(p for p in PROBLEMS if p.name == "2d-everything")
    problem = dataclasses.replace(problem, spatial=(18, 17), head_dim=16)
    inputs = make_inputs(problem)

    @jax.jit
    def step(query):
        def loss(query):
            out, lse = attend(problem, dataclasses.replace(inputs, query=query))
            return jnp.sum(out**2) + jnp.sum(lse)

        return jax.value_and_grad(loss)(query)

    expected = step(inputs.query)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for value, gradient in pool.map(lambda _: step(inputs.query), range(64)):
            np.testing.assert_array_equal(value, expected[0])
            np.testing.assert_array_equal(gradient, expected[1])


def test_implementations():
    listed = {i.name: i for i in jax_na.implementations("cpu")}
    assert listed["fused"].available
    assert listed["xla"].available
    assert jax_na.implementations("cuda")[0].available == _core.has_cuda
    assert "xla" in str(jax_na.implementations("tpu")[0])
    problem = Problem("both", (9,), (4,))
    inputs = make_inputs(problem)
    a, _ = attend(problem, inputs, ("fused", "xla"))
    b, _ = attend(problem, inputs, "xla")
    c, _ = attend(problem, inputs, None)
    np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-6)
    np.testing.assert_array_equal(a, c)
