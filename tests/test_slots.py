"""The derivatives, vmap and sharding of the operations on slots, with plain JAX in place of their
custom calls.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads
from problems import SMALL, Problem, make_inputs

import jax_na
from jax_na import _ffi, _implementations, _slots, _unfused, _unfused_xla
from jax_na._arguments import Arguments
from jax_na._sharding import without_explicit_axes
from jax_na._window import Window


def products(call, query, key, additional_keys, bias):
    """The definition of "products", by the plain JAX of na_qk."""
    geometry = call.geometry
    window = Window(
        geometry.kernel_size,
        geometry.stride,
        geometry.dilation,
        geometry.is_causal,
        geometry.boundary,
    )

    def one(query, key, more, bias):
        more = more if more.shape[0] else None
        given = Arguments(
            query, key, key, more, None, bias, window, geometry.scale, (), geometry.length
        )
        scores = _unfused_xla.qk(given, None)
        return scores if call.masked else jnp.where(jnp.isneginf(scores), 0, scores)

    if bias.shape[0] <= 1:
        one = functools.partial(one, bias=bias[0] if bias.shape[0] else None)
        return jax.vmap(lambda q, k, m: one(q, k, m))(query, key, additional_keys)
    return jax.vmap(one)(query, key, additional_keys, bias)


def stand_in(call, kind, *operands):
    """What replaces a custom call; jitted, since custom_partitioning takes no constants."""
    function = jax.jit(functools.partial(operation, call, kind))
    results = _ffi.unfused_results(call.geometry, kind, call.group, *operands)
    return without_explicit_axes(function, results, operands)


def operation(call, kind, *operands):
    """An operation as "products", or as a transpose of it."""
    call = dataclasses.replace(call, masked=kind == "products" and call.masked)
    if kind == "products":
        return (products(call, *operands),)
    slots, sizes = operands[0], [2 * w - 1 for w in call.geometry.kernel_size]
    additional = slots.shape[-1] - int(np.prod(call.geometry.kernel_size))
    batch, heads = slots.shape[0], slots.shape[4]
    features = operands[1].shape[-1] if len(operands) > 1 else 1
    query = jnp.zeros((*slots.shape[:5], features), slots.dtype)
    key = jnp.zeros((*slots.shape[:4], heads // call.group, features), slots.dtype)
    more = jnp.zeros((batch, additional, heads // call.group, features), slots.dtype)
    no_bias = jnp.zeros((0, heads, *sizes), slots.dtype)
    if kind == "sums":
        _, transpose = jax.vjp(lambda q: products(call, q, *operands[1:], no_bias), query)
    elif kind == "transposed":
        _, transpose = jax.vjp(lambda k, m: products(call, operands[1], k, m, no_bias), key, more)
    else:
        bias = jnp.zeros((batch, heads, *sizes), slots.dtype)
        _, transpose = jax.vjp(lambda b: products(call, query, key, more, b), bias)
    return transpose(slots)


@pytest.fixture(autouse=True)
def without_custom_calls(monkeypatch):
    monkeypatch.setattr(_slots, "_on_cuda", stand_in)
    monkeypatch.setattr(_unfused, "require", lambda *_: None)
    for cached in (_slots._local, _slots._operation):
        cached.cache_clear()
    yield
    for cached in (_slots._local, _slots._operation):
        cached.cache_clear()


def attend(problem, implementation, query, key, value, more_keys, more_values, bias):
    window = {k: v for k, v in problem.call().items() if k != "scale"}
    scores = jax_na.na_qk(
        query,
        key,
        **window,
        scale=problem.scale,
        additional_keys=more_keys,
        relative_position_bias=bias,
        implementation=implementation,
    )
    weights = jax.nn.softmax(scores, axis=-1)
    return jax_na.na_av(
        weights, value, **window, additional_values=more_values, implementation=implementation
    )


CHECKED = ("1d-causal-stride", "1d-empty-batch", "2d-everything", "2d-boundaries", "3d-everything")


@pytest.mark.parametrize("problem", [p for p in SMALL if p.name in CHECKED], ids=str)
def test_same_values_and_gradients_as_plain_jax(problem):
    given = list(make_inputs(problem, "float64").arrays())

    present = [x for x in given if x is not None]

    @functools.partial(jax.jit, static_argnums=0)
    def run(implementation, *present):
        def function(*present):
            rest = iter(present)
            return attend(problem, implementation, *(x if x is None else next(rest) for x in given))

        out, transpose = jax.vjp(function, *present)
        return (out, *transpose(jnp.cos(out)))

    with jax.enable_x64(True):
        for got, expected in zip(run("naive", *present), run("xla", *present), strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-10)


def test_second_derivatives():
    problem = Problem(
        "second",
        (4, 3),
        (2, 3),
        boundary=("clip", "shift"),
        heads=2,
        head_dim=2,
        value_dim=1,
        additional=1,
        bias=True,
    )
    with jax.enable_x64(True):
        inputs = make_inputs(problem, "float64").arrays()
        check_grads(jax.jit(functools.partial(attend, problem, "naive")), inputs, 2, "rev")


def test_forward_mode_names_what_has_it():
    x = jnp.ones((5, 1, 2))
    with pytest.raises(NotImplementedError, match="implementation='xla'"):
        jax.jvp(lambda x: jax_na.na_qk(x, x, (3,), implementation="naive"), (x,), (x,))


def test_weights_of_another_type():
    rng = np.random.default_rng(0)
    weights = rng.random((6, 2, 3)).astype(np.float32)
    value = jnp.asarray(rng.standard_normal((6, 2, 4)), jnp.bfloat16)
    out = jax_na.na_av(weights, value, (3,), implementation="naive")
    expected = jax_na.na_av(weights, value, (3,), implementation="xla")
    assert out.dtype == expected.dtype == jnp.bfloat16
    np.testing.assert_array_equal(out.astype(jnp.float32), expected.astype(jnp.float32))


def test_vmap_folds_into_the_batch():
    problem = Problem("mapped", (5,), (3,), heads=2, kv_heads=1, bias=True)
    rng = np.random.default_rng(1)
    query, bias = rng.standard_normal((3, 2, 5, 2, 4)), rng.standard_normal((3, 2, 5))
    key = rng.standard_normal((2, 5, 1, 4))  # not mapped

    def loss(query, key, bias):
        return jnp.sum(attend(problem, "naive", query, key, key, None, None, bias) ** 2)

    gradient = jax.jit(jax.grad(loss, (0, 1, 2)))
    got = jax.vmap(gradient, (0, None, 0))(query, key, bias)
    each = [gradient(q, key, b) for q, b in zip(query, bias, strict=True)]
    for i, x in enumerate(got):
        np.testing.assert_allclose(x, jnp.stack([e[i] for e in each]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_sharded_batch_and_heads_need_no_collective(kind):
    problem = Problem("sharded", (6, 5), (3, 3))
    mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=(kind, kind))
    x = np.random.default_rng(2).standard_normal((2, 6, 5, 4, 3)).astype(np.float32)

    def loss(x, more):
        return jnp.sum(attend(problem, "naive", x, x, x, more, more, None) ** 2)

    gradient = jax.jit(jax.grad(loss, (0, 1)))
    more = x[:, 0, :2]
    expected = gradient(x, more)
    with jax.set_mesh(mesh):
        sharded = [
            jax.device_put(x, NamedSharding(mesh, P("data", None, None, "model", None))),
            jax.device_put(more, NamedSharding(mesh, P("data", None, "model", None))),
        ]
        compiled = gradient.lower(*sharded).compile()
        got = compiled(*sharded)
    assert "all-gather" not in compiled.as_text()
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_refused_where_there_is_no_gpu(monkeypatch):
    monkeypatch.setattr(_unfused, "require", _implementations.require)
    x = np.ones((6, 1, 4), np.float32)
    with pytest.raises(NotImplementedError, match="'naive' is not available"):
        jax_na.na_qk(x, x, (3,), implementation="naive")
    with pytest.raises(ValueError, match="implementation should be None or from 'naive', 'xla'"):
        jax_na.na_qk(x, x, (3,), implementation="fused")
    # What comes next in a sequence can do it.
    jax_na.na_qk(x, x, (3,), implementation=("naive", "xla"))
