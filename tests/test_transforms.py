"""Transformations of the fused implementation: vmap, scan, remat, sharding, export, derivatives."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jax_na

COLLECTIVE = re.compile(r"all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter")
RNG = np.random.default_rng(0)
Q, K, V = (jnp.asarray(x) for x in RNG.standard_normal((3, 4, 6, 7, 4, 8)).astype(np.float32))
BIAS = jnp.asarray(RNG.standard_normal((4, 5, 5)), jnp.float32)
CALL = re.compile(r'custom_call_target="(jax_na_\w+)"')


def attention(kernels):
    """The function under test."""
    return functools.partial(
        jax_na.na2d, kernel_size=3, implementation=kernels.implementation, precision="highest"
    )


def loss_of(kernels):
    def loss(query, key, value, bias=None):
        return jnp.sum(attention(kernels)(query, key, value, relative_position_bias=bias) ** 2)

    return loss


def close(actual, expected):
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        # On a GPU the size of a batch may decide how sums are cut.
        near = 2e-5 if jax.default_backend() == "cpu" else 1e-4
        np.testing.assert_allclose(np.asarray(a), np.asarray(e), rtol=near, atol=near)


@pytest.mark.parametrize("axes", [(0, None, None), (0, 0, 0), (None, 0, None), (0, None, 0)])
def test_vmap_of_gradient(kernels, axes):
    operands = [
        jnp.stack([x, 2 * x, 0.5 * x]) if a == 0 else x
        for x, a in zip((Q, K, V), axes, strict=True)
    ]
    gradient = jax.grad(loss_of(kernels), (0, 1, 2))
    mapped = jax.vmap(gradient, axes)(*operands)
    for i in range(3):
        one = [x[i] if a == 0 else x for x, a in zip(operands, axes, strict=True)]
        close([g[i] for g in mapped], gradient(*one))


def test_vmap_of_any_axis_and_nested(kernels):
    attend = attention(kernels)
    stacked = jnp.stack([Q, 2 * Q], 3)
    out = jax.vmap(lambda q: attend(q, K, V), in_axes=3, out_axes=2)(stacked)
    close(out[:, :, 1], attend(2 * Q, K, V))
    both = jax.vmap(jax.vmap(lambda q, k: attend(q, k, V), (0, None)), (None, 0))
    out = both(jnp.stack([Q, 2 * Q]), jnp.stack([K, -K, 3 * K]))
    close(out[2, 1], attend(2 * Q, 3 * K, V))


def test_vmap_over_nothing(kernels):
    out = jax.vmap(lambda q: attention(kernels)(q, K, V))(jnp.zeros((0, *Q.shape)))
    assert out.shape == (0, *Q.shape)


def test_without_jit(kernels):
    loss, operands = loss_of(kernels), (Q, K, V, BIAS)
    expected = jax.value_and_grad(loss, 3)(*operands)
    with jax.disable_jit():
        close(jax.value_and_grad(loss, 3)(*operands), expected)
        assert jax_na.na2d(Q, K, V, 3).shape == Q.shape


def test_vmap_of_bias(kernels):
    gradient = jax.grad(lambda b, q: loss_of(kernels)(q, K, V, b))
    biases, queries = jnp.stack([BIAS, -BIAS]), jnp.stack([Q, 2 * Q])
    close(jax.vmap(gradient, (0, None))(biases, Q)[1], gradient(-BIAS, Q))
    close(jax.vmap(gradient, (None, 0))(BIAS, queries)[1], gradient(BIAS, 2 * Q))
    close(jax.vmap(gradient)(biases, queries)[1], gradient(-BIAS, 2 * Q))


def test_scan(kernels):
    attend = attention(kernels)

    def looped(q):
        return jnp.sum(jax.lax.scan(lambda c, _: (attend(c, K, V), None), q, None, length=3)[0])

    def unrolled(q):
        return jnp.sum(attend(attend(attend(q, K, V), K, V), K, V))

    close(jax.jit(jax.grad(looped))(Q), jax.grad(unrolled)(Q))


@pytest.mark.parametrize(("names", "calls"), [(jax_na.RESIDUAL_NAMES, 2), ((), 3)])
def test_named_residuals_save_the_recomputation(kernels, names, calls):
    policy = jax.checkpoint_policies.save_only_these_names(*names)
    step = jax.checkpoint(lambda q: loss_of(kernels)(jnp.sin(q), K, V), policy=policy)
    text = jax.jit(jax.value_and_grad(step)).lower(Q).compile().as_text()
    assert len(CALL.findall(text)) == calls


@pytest.mark.parametrize(
    "derivative",
    [
        lambda f: lambda x: jax.jvp(f, (x,), (x,)),
        jax.jacfwd,
        jax.hessian,
        lambda f: jax.grad(lambda x: jnp.sum(jax.grad(f)(x))),
    ],
    ids=["jvp", "jacfwd", "hessian", "grad of grad"],
)
def test_other_derivatives_name_the_implementation_that_has_them(kernels, derivative):
    q, k, v = (x[:1, :3, :3, :1, : kernels.features(2)] for x in (Q, K, V))

    def function(implementation):
        return lambda q: jnp.sum(jax_na.na2d(q, k, v, 3, implementation=implementation) ** 2)

    with pytest.raises(NotImplementedError, match="implementation='xla'"):
        derivative(function(kernels.implementation))(q)
    jax.jit(derivative(function("xla")))(q)


SPEC = P("data", None, None, "model", None)


def mesh(kind, shape=(2, 4)):
    """A mesh of 8 devices; on a GPU, of the one that there surely is."""
    if jax.default_backend() == "gpu":
        shape = (1, 1)
    devices = jax.devices()[: shape[0] * shape[1]]
    return jax.make_mesh(shape, ("data", "model"), axis_types=(kind, kind), devices=devices)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_sharded_batch_and_heads_need_no_collective(kernels, kind):
    attend = attention(kernels)
    gradient = jax.grad(lambda *x: jnp.sum(attend(*x)), (0, 1, 2))
    expected = attend(Q, K, V), gradient(Q, K, V)
    where = mesh(kind)
    with jax.set_mesh(where):
        operands = [jax.device_put(x, NamedSharding(where, SPEC)) for x in (Q, K, V)]
        for function, value in zip((attend, gradient), expected, strict=True):
            compiled = jax.jit(lambda *x, f=function: f(*x)).lower(*operands).compile()
            text = compiled.as_text()
            assert all(kernels.platform in call for call in CALL.findall(text))
            assert CALL.findall(text)
            assert not COLLECTIVE.search(text)
            result = compiled(*operands)
            close(result, value)
            assert jax.tree.leaves(result)[0].sharding.spec == SPEC


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("mapped", [False, True], ids=["given", "mapped"])
def test_any_batch_axis_may_be_sharded(kernels, mapped, kind):
    """The second of two, or the only one with a mapped axis in front of it."""
    attend = attention(kernels)
    one = jax.vmap(attend, (0, 0, 0)) if mapped else attend
    gradient = jax.grad(lambda *x: jnp.sum(one(*x) ** 2), (0, 1, 2))
    operands = [jnp.stack([x, 2 * x, -x]) for x in (Q, K, V)]
    expected = one(*operands), gradient(*operands)
    where, spec = mesh(kind), P(None, *SPEC)
    with jax.set_mesh(where):
        operands = [jax.device_put(x, NamedSharding(where, spec)) for x in operands]
        for function, value in zip((one, gradient), expected, strict=True):
            compiled = jax.jit(lambda *x, f=function: f(*x)).lower(*operands).compile()
            assert not COLLECTIVE.search(compiled.as_text())
            result = compiled(*operands)
            close(result, value)
            assert jax.tree.leaves(result)[0].sharding.spec == spec


@pytest.mark.parametrize("mapped", [(1, 2), (3,), (0,)], ids=["keys", "bias", "queries"])
def test_any_operand_may_have_the_mapped_axis(kernels, mapped):
    """Sharded over an explicit axis of the mesh, which all others then are."""
    loss, where = loss_of(kernels), mesh(AxisType.Explicit)
    operands = [jnp.stack([x, -x]) if i in mapped else x for i, x in enumerate((Q, K, V, BIAS))]
    axes = tuple(0 if i in mapped else None for i in range(4))
    gradient = jax.grad(lambda *x: jnp.sum(jax.vmap(loss, axes)(*x)), (0, 1, 2, 3))
    expected = gradient(*operands)
    with jax.set_mesh(where):
        specs = [P("data") if i in mapped else P() for i in range(4)]
        operands = [
            jax.device_put(x, NamedSharding(where, spec))
            for x, spec in zip(operands, specs, strict=True)
        ]
        close(jax.jit(gradient)(*operands), expected)


def test_batch_axes_share_a_bias(kernels):
    loss = loss_of(kernels)
    operands = [jnp.stack([x, 2 * x]) for x in (Q, K, V)]
    each = [jax.grad(loss, 3)(*(x[i] for x in operands), BIAS) for i in range(2)]
    close(jax.grad(loss, 3)(*operands, BIAS), each[0] + each[1])


def test_sharded_bias_gradient(kernels):
    loss = loss_of(kernels)
    expected = jax.grad(loss, 3)(Q, K, V, BIAS)
    where = mesh(AxisType.Auto)
    operands = [jax.device_put(x, NamedSharding(where, SPEC)) for x in (Q, K, V)]
    close(jax.jit(jax.grad(loss, 3))(*operands, BIAS), expected)


# Devices along "model", which splits the 4 query heads, and key heads: a shard has whole groups of
# heads; two shards share a group; all do.
@pytest.mark.parametrize(("shards", "kv_heads"), [(2, 2), (4, 2), (4, 1)])
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("by_kernels", [True, False], ids=["compiled", "xla"])
def test_sharded_grouped_heads(kernels, shards, kv_heads, kind, by_kernels):
    attend = (
        attention(kernels)
        if by_kernels
        else functools.partial(attention(kernels), implementation="xla")
    )
    q, k, v = (x[:, :4, :4] for x in (Q, K[..., :kv_heads, :], V[..., :kv_heads, :]))

    def both(*operands):
        def loss(*operands):
            out = attend(*operands)
            return jnp.sum(out**2), out

        return jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(*operands)

    expected = jax.jit(both)(q, k, v)
    where = mesh(kind, (8 // shards, shards))
    kv_spec = SPEC if kv_heads % shards == 0 else P("data")
    with jax.set_mesh(where):
        operands = [
            jax.device_put(x, NamedSharding(where, spec))
            for x, spec in ((q, SPEC), (k, kv_spec), (v, kv_spec))
        ]
        compiled = jax.jit(both).lower(*operands).compile()
        (value, out), gradients = compiled(*operands)
        close(((value, out), gradients), expected)
        assert out.sharding.spec == SPEC
        if kv_heads % shards == 0:
            assert not re.search("all-gather|all-to-all|collective-permute", compiled.as_text())


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_shard_map(kernels, kind):
    attend, loss = attention(kernels), loss_of(kernels)
    expected = jax.grad(loss, (0, 3))(Q, K, V, BIAS)
    where = mesh(kind)
    with jax.set_mesh(where):
        specs = (SPEC, SPEC, SPEC, P("model"))
        operands = [
            jax.device_put(x, NamedSharding(where, s))
            for x, s in zip((Q, K, V, BIAS), specs, strict=True)
        ]
        sharded = jax.shard_map(
            lambda q, k, v, b: attend(q, k, v, relative_position_bias=b),
            mesh=where,
            in_specs=specs,
            out_specs=SPEC,
        )
        step = jax.jit(jax.grad(lambda *x: jnp.sum(sharded(*x) ** 2), (0, 3)))
        close(step(*operands), expected)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_shard_map_over_some_axes(kernels, kind):
    """The others, automatic or explicit, are not JAX's to partition there."""
    attend, loss = attention(kernels), loss_of(kernels)
    expected = jax.value_and_grad(loss, (0, 3))(Q, K, V, BIAS)
    where = mesh(kind)
    with jax.set_mesh(where):
        operands = [jax.device_put(x, NamedSharding(where, SPEC)) for x in (Q, K, V)]
        bias = jax.device_put(BIAS, NamedSharding(where, P()))
        sharded = jax.shard_map(
            lambda q, k, v, b: attend(q, k, v, relative_position_bias=b),
            in_specs=(P("data"), P("data"), P("data"), P()),
            out_specs=P("data"),
            axis_names={"data"},
        )
        step = jax.jit(jax.value_and_grad(lambda *x: jnp.sum(sharded(*x) ** 2), (0, 3)))
        close(step(*operands, bias), expected)


def test_export_with_any_batch(kernels):
    (batch,) = export.symbolic_shape("b")
    shape = jax.ShapeDtypeStruct((batch, *Q.shape[1:]), Q.dtype)
    for attend in (attention(kernels), lambda *x: jax_na.na2d(*x, 3)):
        exported = export.export(jax.jit(attend), disabled_checks=jax_na.export_safety_checks)
        close(exported(shape, shape, shape).call(Q, K, V), attend(Q, K, V))

    def with_biases(query, biases):
        return jax.vmap(
            lambda q, b: jax_na.na2d(q, q, q, 3, relative_position_bias=b, precision="highest")
        )(query, biases)

    biases = jnp.stack([BIAS * i for i in range(len(Q))])
    shapes = shape, jax.ShapeDtypeStruct((batch, *BIAS.shape), BIAS.dtype)
    exported = export.export(jax.jit(with_biases), disabled_checks=jax_na.export_safety_checks)(
        *shapes
    )
    close(exported.call(Q, biases), with_biases(Q, biases))


def test_export(kernels):
    attend = attention(kernels)
    exported = export.export(jax.jit(attend), disabled_checks=jax_na.export_safety_checks)(Q, K, V)
    again = export.deserialize(exported.serialize())
    close(again.call(Q, K, V), attend(Q, K, V))
    assert f"@jax_na_{kernels.platform}" in exported.mlir_module()


def test_platforms_without_kernels_run_pure_jax():
    exported = export.export(jax.jit(lambda *x: jax_na.na2d(*x, 3)), platforms=["tpu"])(Q, K, V)
    assert "@jax_na" not in exported.mlir_module()
    fused = jax.jit(lambda *x: jax_na.na2d(*x, 3, implementation="fused"))
    with pytest.raises(NotImplementedError):
        export.export(fused, platforms=["tpu"])(Q, K, V)
