"""The fused CUDA kernels, held to the specification and to plain JAX of the same precision."""

import dataclasses
import functools
import math
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import PROBLEMS, Problem, make_inputs

import jax_na
from jax_na._reference import reference_attention

CPU = jax.devices("cpu")[0]
KINDS = {
    "float32": ("float32", None),
    "float32-highest": ("float32", "highest"),
    "bfloat16": ("bfloat16", None),
    "float16": ("float16", None),
}


def widened(problem, head_dim=None, value_dim=None):
    """The problem with head dimensions that the kernels take."""
    return dataclasses.replace(
        problem,
        head_dim=head_dim or 8 * math.ceil(problem.head_dim / 8),
        value_dim=value_dim or 8 * math.ceil(problem.value_dim / 8),
    )


def attention(problem, given, implementation, precision):
    """(out, lse) of a dictionary of arrays named as the fields of Inputs."""
    return jax_na.neighborhood_attention(
        given["query"],
        given["key"],
        given["value"],
        **problem.call(),
        additional_keys=given.get("additional_keys"),
        additional_values=given.get("additional_values"),
        relative_position_bias=given.get("bias"),
        implementation=implementation,
        precision=precision,
        return_lse=True,
    )


def arrays_of(problem, dtype, seed=0):
    inputs = make_inputs(problem, dtype, seed)
    fields = (f.name for f in dataclasses.fields(inputs))
    return {name: x for name in fields if (x := getattr(inputs, name)) is not None}


def with_gradients(problem, implementation, precision, given, cotangents):
    """out, lse and the gradients of every input, in float64 NumPy."""
    attend = functools.partial(
        attention, problem, implementation=implementation, precision=precision
    )

    @jax.jit
    def run(given, cotangents):
        results, transpose = jax.vjp(attend, given)
        typed = tuple(c.astype(r.dtype) for c, r in zip(cotangents, results, strict=True))
        return results, transpose(typed)[0]

    (out, lse), gradients = run(given, cotangents)
    named = {"out": out, "lse": lse} | {f"d{name}": x for name, x in gradients.items()}
    return {name: np.asarray(x, np.float64) for name, x in named.items()}


def errors(found, expected):
    """Root mean square error of each array over that of its values."""
    worst = {}
    for name, right in expected.items():
        wrong = found[name]
        finite = np.isfinite(right)
        np.testing.assert_array_equal(np.isfinite(wrong), finite, err_msg=name)
        np.testing.assert_array_equal(wrong[~finite], right[~finite], err_msg=name)
        if right.size:
            scale = np.sqrt(np.mean(right[finite] ** 2)) if finite.any() else 0.0
            worst[name] = (np.sqrt(np.mean((wrong - right)[finite] ** 2)), max(scale, 1e-3))
    return worst


def in_float64(problem, given, cotangents):
    with jax.enable_x64(True), jax.default_device(CPU):
        wide = {name: np.asarray(x, np.float64) for name, x in given.items()}
        wide_cotangents = tuple(np.asarray(c, np.float64) for c in cotangents)
        return with_gradients(problem, "xla", None, wide, wide_cotangents)


def compare(problem, kind, seed=0):
    """Errors of the fused kernels and of plain JAX against float64, by array."""
    dtype, precision = KINDS[kind]
    given = arrays_of(problem, dtype, seed)
    rng = np.random.default_rng(seed + 1)
    shape = given["query"].shape[:-1]
    cotangents = (
        rng.standard_normal((*shape, problem.value_dim)).astype(given["query"].dtype),
        rng.standard_normal(shape).astype(np.float32),
    )
    expected = in_float64(problem, given, cotangents)
    fused = errors(with_gradients(problem, "fused", precision, given, cotangents), expected)
    plain_precision = precision or "default"
    plain = errors(with_gradients(problem, "xla", plain_precision, given, cotangents), expected)
    return fused, plain


# A share of the scale of an array: two roundings of the operands of products, which plain JAX may
# not make where it computes small ones without tensor cores.
FLOOR = {"float32": 1e-3, "float32-highest": 4e-6, "bfloat16": 3e-3, "float16": 4e-4}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_error_is_at_most_twice_that_of_plain_jax(problem, kind, record):
    problem = widened(problem)
    if 0 in problem.batch:
        pytest.skip("nothing to compare")
    fused, plain = compare(problem, kind)
    for name, (error, scale) in fused.items():
        record(
            problem=problem.name,
            kind=kind,
            array=name,
            error=error / scale,
            plain=plain[name][0] / scale,
        )
        assert error <= 2 * plain[name][0] + FLOOR[kind] * scale, (name, error, plain[name], scale)


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_specification(problem):
    """Against the reference that knows no closed form."""
    problem = widened(problem)
    inputs = make_inputs(problem, "float32")
    given = arrays_of(problem, "float32")
    out, lse = attention(problem, given, "fused", "highest")
    expected, expected_lse = reference_attention(
        inputs.query,
        inputs.key,
        inputs.value,
        problem.window,
        scale=problem.scale,
        **inputs.extras(),
    )
    np.testing.assert_allclose(out, expected, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(lse, expected_lse, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(
    ("head_dim", "value_dim"),
    [(8, 8), (24, 40), (32, 32), (64, 64), (64, 128), (96, 96), (128, 128), (160, 72), (256, 256)],
)
@pytest.mark.parametrize("kind", KINDS)
def test_head_dimensions(head_dim, value_dim, kind):
    problem = Problem(
        "2d",
        (13, 11),
        (5, 4),
        heads=4,
        kv_heads=2,
        batch=(2,),
        additional=3,
        bias=True,
        head_dim=head_dim,
        value_dim=value_dim,
    )
    fused, plain = compare(problem, kind)
    for name, (error, scale) in fused.items():
        assert error <= 2 * plain[name][0] + FLOOR[kind] * scale, (name, error, plain[name], scale)


def random_problem(seed):
    r = random.Random(seed)
    rank = r.randint(1, 3)
    spatial, sizes, strides, dilations, causal, boundary = [], [], [], [], [], []
    for _ in range(rank):
        d = r.choice((1, 1, 1, 2, 3))
        rule = r.choice(("shift", "clip", "wrap"))
        length = r.randint(d, {1: 300, 2: 30, 3: 10}[rank])
        length = max(length // d, 1) * d if rule == "wrap" else length
        w = r.randint(1, length // d)
        spatial.append(length)
        sizes.append(w)
        strides.append(r.choice((1, r.randint(1, w))))
        dilations.append(d)
        boundary.append(rule)
        causal.append(rule != "wrap" and r.random() < 0.3)
    kv_heads = r.randint(1, 2)
    dims = r.choice((8, 16, 32, 64, 80, 128))
    return Problem(
        f"random-{seed}",
        tuple(spatial),
        tuple(sizes),
        stride=tuple(strides),
        dilation=tuple(dilations),
        is_causal=tuple(causal),
        boundary=tuple(boundary),
        batch=(r.randint(1, 3),),
        heads=kv_heads * r.randint(1, 3),
        kv_heads=kv_heads,
        head_dim=dims,
        value_dim=r.choice((dims, 8, 64)),
        additional=r.choice((None, None, 2, 70)),
        bias=r.random() < 0.3,
    )


def test_random_problems(request, record):
    """Whole compilations are most of the time: several kinds share a problem's."""
    count = request.config.getoption("--random")
    for seed in range(count):
        problem = random_problem(seed)
        kind = list(KINDS)[seed % len(KINDS)]
        fused, plain = compare(problem, kind, seed)
        for name, (error, scale) in fused.items():
            assert error <= 2 * plain[name][0] + FLOOR[kind] * scale, (problem, kind, name, error)
    record(problems=count)


def test_two_runs_agree_to_the_bit():
    problem = Problem(
        "2d",
        (40, 37),
        (7, 9),
        heads=4,
        kv_heads=2,
        batch=(2,),
        head_dim=64,
        value_dim=64,
        additional=5,
    )
    given = arrays_of(problem, "bfloat16")
    shape = given["query"].shape[:-1]
    cotangents = (np.ones((*shape, 64), given["query"].dtype), np.ones(shape, np.float32))
    first = with_gradients(problem, "fused", None, given, cotangents)
    for _ in range(10):
        again = with_gradients(problem, "fused", None, given, cotangents)
        for name, x in first.items():
            np.testing.assert_array_equal(again[name], x, err_msg=name)


def test_none_runs_the_fused_kernels():
    q = jnp.ones((1, 8, 8, 2, 32))
    text = jax.jit(lambda q: jax_na.na2d(q, q, q, 3)).lower(q).compile().as_text()
    assert "jax_na_cuda_fused_forward" in text


@pytest.mark.parametrize(
    ("dtype", "features", "message"),
    [(jnp.float32, 12, "multiple of 8 up to 256, but got 12"), (jnp.float64, 8, "got float64")],
)
def test_refusals(dtype, features, message):
    with jax.enable_x64(dtype == jnp.float64):
        q = jnp.ones((8, 1, features), dtype)
        with pytest.raises(NotImplementedError, match=message):
            jax_na.na1d(q, q, q, 3, implementation="fused")


def test_vmap_and_scan():
    q = jax.random.normal(jax.random.key(0), (3, 2, 6, 7, 2, 32))

    def loss(q):
        return jnp.sum(jax_na.na2d(q, q, q, (3, 5), implementation="fused") ** 2)

    mapped = jax.jit(jax.vmap(jax.grad(loss)))(q)
    _, scanned = jax.jit(lambda q: jax.lax.scan(lambda c, x: (c, jax.grad(loss)(x)), 0, q))(q)
    np.testing.assert_array_equal(mapped, scanned)


def test_more_than_2_to_the_31_elements():
    """The last tokens of a large tensor are the same as those of a small one."""
    shape = (1, 4_300_000, 4, 128)
    q = jax.random.normal(jax.random.key(0), shape, jnp.bfloat16)
    assert q.size > 2**31
    out = jax.jit(lambda q: jax_na.na1d(q, q, q, 9, boundary="clip", implementation="fused"))(q)
    tail = q[:, -64:]
    small = jax_na.na1d(tail, tail, tail, 9, boundary="clip", implementation="fused")
    np.testing.assert_array_equal(
        np.asarray(out[:, -32:], np.float32), np.asarray(small[:, -32:], np.float32)
    )
