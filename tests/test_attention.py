"""The fused implementation: values against the specification, properties, precision, threads."""

import concurrent.futures
import dataclasses
import functools
import hashlib
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from problems import PROBLEMS, Inputs, Problem, make_inputs, problems

import jax_na
from jax_na import _core
from jax_na._reference import reference_attention


def attend(problem, inputs, implementation="fused", precision=None):
    return jax_na.neighborhood_attention(
        inputs.query,
        inputs.key,
        inputs.value,
        **problem.call(),
        **inputs.extras(),
        implementation=implementation,
        precision=precision,
        return_lse=True,
    )


def expect(problem, inputs):
    arrays = (inputs.query, inputs.key, inputs.value)
    return reference_attention(*arrays, problem.window, scale=problem.scale, **inputs.extras())


def check(problem, kernels):
    problem = kernels.fit(problem)
    inputs = make_inputs(problem, kernels.exact)
    with jax.enable_x64(kernels.exact == "float64"):
        out, lse = attend(problem, inputs, kernels.implementation, "highest")
    expected, expected_lse = expect(problem, inputs)
    assert out.shape == expected.shape
    assert out.dtype == lse.dtype == kernels.exact
    near = kernels.tolerance / 10
    np.testing.assert_allclose(out, expected, rtol=near, atol=near)
    np.testing.assert_allclose(lse, expected_lse, rtol=near, atol=near)


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_specification(kernels, problem):
    check(problem, kernels)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(problems())
def test_random_problems(kernels, problem):
    check(problem, kernels)


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
def test_error_is_at_most_twice_that_of_a_plain_implementation(kernels, dtype, factor):
    errors = []
    for problem in map(kernels.fit, PLAIN[::4]):
        inputs = make_inputs(problem, dtype)
        inputs.query = (inputs.query * factor).astype(inputs.query.dtype)
        names = ("query", "key", "value")
        wide = {name: getattr(inputs, name).astype(np.float64) for name in names}
        exact, _ = expect(problem, dataclasses.replace(inputs, **wide))
        ours, _ = attend(problem, inputs, kernels.implementation, "highest")
        results = (ours, dense(problem, inputs))
        errors.append([np.sum((np.asarray(x, np.float64) - exact) ** 2) for x in results])
    ours, plain = np.sqrt(np.sum(errors, 0))  # over all problems: one alone is a matter of luck
    assert ours <= 2 * plain


def attend_1d(kernels, *arrays, **options):
    return jax_na.na1d(
        *arrays, **options, implementation=kernels.implementation, precision="highest"
    )


def attend_2d(kernels, *arrays, **options):
    return jax_na.na2d(
        *arrays, **options, implementation=kernels.implementation, precision="highest"
    )


def test_huge_logits_pick_the_largest(kernels):
    rng = np.random.default_rng(0)
    query, key, value = (rng.standard_normal((1, 20, 2, 8)).astype(np.float32) for _ in range(3))
    factor = min(1e30, kernels.largest_factor)
    query, key = (x * np.float32(factor**0.5) for x in (query, key))
    out, lse = attend_1d(kernels, query, key, value, kernel_size=5, return_lse=True)
    assert np.isfinite(out).all()
    assert np.isfinite(lse).all()
    wide = (x.astype(np.float64) for x in (query, key, value))
    expected, _ = reference_attention(*wide, jax_na.Window((5,)))
    # Scores of 1e4 are known to 1e-3, and so are weights where two of them are close.
    near = 5e-3 if kernels.on_tensor_cores else 1e-6
    np.testing.assert_allclose(out, expected, rtol=near, atol=near)


def test_window_of_one_returns_value(kernels):
    value = np.random.default_rng(0).standard_normal((2, 5, 6, 3, 8)).astype(np.float32)
    out = attend_2d(kernels, value, value, value, kernel_size=1)
    # The three products that make one of float32 on tensor cores drop the last bits of a number.
    np.testing.assert_allclose(out, value, rtol=1e-6 if kernels.on_tensor_cores else 0)


def test_whole_axis_is_dense_attention(kernels):
    q, k, v = np.random.default_rng(0).standard_normal((3, 2, 4, 5, 3, 8)).astype(np.float32)
    flat = (jnp.asarray(x.reshape(2, 20, 3, 8)) for x in (q, k, v))
    with jax.default_matmul_precision("highest"):
        expected = jax.nn.dot_product_attention(*flat).reshape(q.shape)
    for stride in (1, 3):
        out = attend_2d(kernels, q, k, v, kernel_size=None, stride=stride)
        np.testing.assert_allclose(out, expected, rtol=2e-5, atol=2e-6)


def test_stride_of_the_window_is_blocked_attention(kernels):
    q, k, v = np.random.default_rng(0).standard_normal((3, 1, 12, 2, 8)).astype(np.float32)
    blocks = (jnp.asarray(x.reshape(3, 4, 2, 8)) for x in (q, k, v))
    with jax.default_matmul_precision("highest"):
        expected = jax.nn.dot_product_attention(*blocks).reshape(q.shape)
    out = attend_1d(kernels, q, k, v, kernel_size=4, stride=4)
    np.testing.assert_allclose(out, expected, rtol=2e-5, atol=2e-6)


def test_periodic_axis_is_equivariant_to_translation(kernels):
    q, k, v = np.random.default_rng(0).standard_normal((3, 1, 6, 9, 2, 8)).astype(np.float32)
    moved = (np.roll(x, (2, -4), (1, 2)) for x in (q, k, v))
    out = attend_2d(kernels, q, k, v, kernel_size=(3, 4), boundary="wrap")
    out_of_moved = attend_2d(kernels, *moved, kernel_size=(3, 4), boundary="wrap")
    np.testing.assert_allclose(out_of_moved, np.roll(out, (2, -4), (1, 2)), atol=2e-6)


def test_heads_are_independent(kernels):
    q, k, v = np.random.default_rng(0).standard_normal((3, 1, 11, 5, 8)).astype(np.float32)
    order = np.array([3, 0, 4, 1, 2])
    out = attend_1d(kernels, q, k, v, kernel_size=4)
    moved = attend_1d(kernels, q[:, :, order], k[:, :, order], v[:, :, order], kernel_size=4)
    np.testing.assert_array_equal(moved, out[:, :, order])


def test_tokens_far_outside_the_window_have_no_influence(careful_kernels):
    q, k, v = np.random.default_rng(0).standard_normal((3, 1, 40, 1, 4)).astype(np.float32)
    out = attend_1d(careful_kernels, q, k, v, kernel_size=5)
    k[:, 20], v[:, 20] = np.nan, np.inf
    changed = np.isnan(attend_1d(careful_kernels, q, k, v, kernel_size=5)).any((0, 2, 3))
    assert changed[18:23].all()
    # A register tile has up to four neighbouring queries.
    assert not changed[: 18 - 3].any()
    assert not changed[23 + 3 :].any()
    np.testing.assert_array_equal(
        attend_1d(careful_kernels, q, k, v, kernel_size=5)[:, :15], out[:, :15]
    )


def all_results():
    """A compiled function of an implementation: out, lse and the gradients of every input."""
    problem = next(p for p in PROBLEMS if p.name == "2d-everything")
    problem = dataclasses.replace(problem, spatial=(18, 17), head_dim=16, value_dim=8, batch=(2,))
    inputs = make_inputs(problem)

    @functools.partial(jax.jit, static_argnums=0)
    def step(implementation, *arrays):
        def loss(*arrays):
            out, lse = attend(problem, Inputs(*arrays), implementation)
            return jnp.sum(out**2) + jnp.sum(lse), (out, lse)

        return jax.grad(loss, range(6), has_aux=True)(*arrays)

    return lambda implementation: jax.tree.leaves(step(implementation, *inputs.arrays()))


def test_results_do_not_depend_on_the_thread(kernels):
    """Nor on what else the device does."""
    step = all_results()
    expected = step(kernels.implementation)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for found in pool.map(lambda _: step(kernels.implementation), range(64)):
            for x, y in zip(found, expected, strict=True):
                np.testing.assert_array_equal(x, y)


def fingerprint():
    """Of all bits of all results."""
    found = b"".join(np.asarray(x).tobytes() for x in all_results()("fused"))
    return hashlib.sha256(found).hexdigest()


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="needs two cores and a way to leave one out",
)
def test_results_do_not_depend_on_the_number_of_cores():
    core = min(os.sched_getaffinity(0))
    program = (
        f"import os; os.sched_setaffinity(0, [{core}])\n"
        "import test_attention; print(test_attention.fingerprint())"
    )
    path = os.pathsep.join((os.path.dirname(__file__), *sys.path))
    on_one = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": path, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert on_one.returncode == 0, on_one.stderr[-4000:]
    with jax.default_device(jax.devices("cpu")[0]):
        assert on_one.stdout.split()[-1] == fingerprint()


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
