"""na_qk and na_av by their CUDA kernels, held to plain JAX in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import COMPARED, errors, together
from problems import Problem, make_inputs

import jax_na

#: Root mean square error over that of the values: of the roundings of results and of sums.
TOLERANCE = {"float32": 2e-6, "float64": 1e-13, "bfloat16": 2e-2, "float16": 3e-3}


def halves(problem, implementation, query, key, value, more_keys, more_values, bias):
    """The scores, and what their softmax weighs."""
    window = {k: v for k, v in problem.call().items() if k != "scale"}
    scores = jax_na.na_qk(
        query,
        key,
        **window,
        scale=problem.scale,
        additional_keys=more_keys,
        relative_position_bias=bias,
        implementation=implementation,
        precision="highest",
    )
    weights = jax.nn.softmax(scores.astype(jnp.promote_types(scores.dtype, jnp.float32)), axis=-1)
    out = jax_na.na_av(
        weights.astype(scores.dtype),
        value,
        **window,
        additional_values=more_values,
        implementation=implementation,
        precision="highest",
    )
    return scores, out


@functools.lru_cache(maxsize=8)
def runner(problem, implementation, there):
    """A compiled function of the arrays that are there and a cotangent: scores, out, gradients."""

    @jax.jit
    def run(present, cotangent):
        def function(*present):
            rest = iter(present)
            given = (next(rest) if one else None for one in there)
            scores, out = halves(problem, implementation, *given)
            return out, scores

        out, transpose, scores = jax.vjp(function, *present, has_aux=True)
        return scores, out, *transpose(cotangent.astype(out.dtype))

    return run


def with_gradients(problem, implementation, arrays, cotangent):
    """Scores, out and the gradients of all arrays, in float64 NumPy."""
    there = tuple(x is not None for x in arrays)
    run = runner(problem, implementation, there)
    results = run([x for x in arrays if x is not None], cotangent)
    return {i: np.asarray(x, np.float64) for i, x in enumerate(results)}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("problem", [together(p) for p in COMPARED])
def test_values_and_gradients(problem, dtype):
    arrays = make_inputs(problem, dtype).arrays()
    shape = (*arrays[0].shape[:-1], problem.value_dim)
    cotangent = np.random.default_rng(1).standard_normal(shape).astype(arrays[0].dtype)
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        wide = [None if x is None else np.asarray(x, np.float64) for x in arrays]
        expected = with_gradients(problem, "xla", wide, np.asarray(cotangent, np.float64))
    with jax.enable_x64(dtype == "float64"):
        found = with_gradients(problem, "naive", arrays, cotangent)
    for name, (error, scale) in errors(found, expected).items():
        assert error <= TOLERANCE[dtype] * max(scale, 0.1), (name, error, scale)


def test_none_runs_the_kernels():
    x = jnp.ones((8, 8, 2, 20))
    text = jax.jit(lambda x: jax_na.na_qk(x, x, (3, 3))).lower(x).compile().as_text()
    assert "jax_na_cuda_unfused_products" in text


def test_two_runs_agree_to_the_bit():
    problem = Problem(
        "2d",
        (40, 37),
        (7, 9),
        heads=4,
        kv_heads=2,
        head_dim=32,
        value_dim=32,
        additional=5,
        bias=True,
    )
    arrays = make_inputs(problem, "float32").arrays()
    cotangent = np.ones((*arrays[0].shape[:-1], 32), np.float32)
    first = with_gradients(problem, "naive", arrays, cotangent)
    for _ in range(5):
        again = with_gradients(problem, "naive", arrays, cotangent)
        for name, x in first.items():
            np.testing.assert_array_equal(again[name], x)


def test_second_derivative():
    """The derivatives of the kernels are kernels again."""
    with jax.enable_x64(True):
        x = np.random.default_rng(3).standard_normal((6, 1, 3))

        def loss(x, implementation):
            scores = jax_na.na_qk(x, x, (3,), implementation=implementation)
            weights = jax.nn.softmax(scores)
            return jnp.sum(jax_na.na_av(weights, x, (3,), implementation=implementation) ** 2)

        def along(x, implementation):
            return jnp.sum(jnp.sin(jax.grad(loss)(x, implementation)))

        np.testing.assert_allclose(
            jax.grad(along)(x, "naive"), jax.grad(along)(x, "xla"), rtol=1e-10, atol=1e-10
        )
