"""The Flax layers and the attention_fn adapters, against the reference and against each other."""

from __future__ import annotations

import itertools
import subprocess
import sys
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jax_na
import jax_na.linen
import jax_na.nnx
from jax_na._layers import Rotary, fit_window
from jax_na._reference import reference_attention
from jax_na.nnx import NeighborhoodAttention

# Options of a layer of 16 features and 4 heads, tried on a line, a grid or a volume by rank.
SPATIAL = {1: (9,), 2: (6, 8), 3: (3, 4, 5)}
LAYERS: dict[str, dict[str, Any]] = {
    "plain": {"kernel_size": (3, 5)},
    "scalar-kernel": {"kernel_size": 4, "use_bias": False},
    "no-qkv-bias": {"kernel_size": (3, 3), "use_qkv_bias": False},
    "gqa": {"kernel_size": (3,), "num_kv_heads": 2, "out_features": 6},
    "mqa-wide": {"kernel_size": (3,), "num_kv_heads": 1, "qkv_features": 32, "scale": 0.3},
    "window": {
        "kernel_size": (3, 2),
        "stride": (2, 1),
        "dilation": (2, 3),
        "is_causal": (False, True),
        "boundary": ("clip", "shift"),
    },
    "wrap": {"kernel_size": (3, 3), "boundary": ("shift", "wrap")},
    "whole-axis": {"kernel_size": (None, 3, 3)},
    "position-bias": {
        "kernel_size": (3, 4),
        "dilation": (2, 1),
        "use_relative_position_bias": True,
    },
    "rope-1d": {"kernel_size": (5,), "rope": True},
    "rope-2d": {"kernel_size": (3, 5), "rope": True, "rope_base": (100.0, 50.0)},
    "rope-3d": {
        "kernel_size": (2, 3, 3),
        "qkv_features": 32,
        "rope": True,
        "rope_dims": (0, 2, 4),
    },
    "everything": {
        "kernel_size": (3, 3),
        "dilation": 2,
        "num_kv_heads": 2,
        "normalize_qk": True,
        "rope": True,
        "use_relative_position_bias": True,
    },
}


def make(name: str, **more: Any) -> tuple[NeighborhoodAttention, jax.Array]:
    """A layer with random values in every parameter, and an input with a batch of 2."""

    def build() -> NeighborhoodAttention:
        return NeighborhoodAttention(4, 16, **{**LAYERS[name], **more}, rngs=nnx.Rngs(0))

    # Initialisers compile; numbers from NumPy do not.
    layer = build() if more.get("out_dropout_rate") else nnx.eval_shape(build)
    fill(layer)
    return layer, normal(2, *SPATIAL[layer.window.rank], 16)


def fill(layer: nnx.Module) -> None:
    """Replaces every parameter, concrete or abstract, by random values."""
    rng = np.random.default_rng(0)
    params = nnx.state(layer, nnx.Param)
    values = jax.tree.map(
        lambda leaf: jnp.asarray(0.4 * rng.standard_normal(leaf.shape), leaf.dtype), params
    )
    nnx.update(layer, values)


def normal(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(1).standard_normal(shape), jnp.float32)


def params_of(layer: nnx.Module) -> dict[str, Any]:
    return nnx.to_pure_dict(nnx.state(layer, nnx.Param))


def turned(x: np.ndarray, dims: tuple[int, ...], base: tuple[float, ...]) -> np.ndarray:
    """Rotary embedding by complex multiplication, channel pair by channel pair."""
    x, begin, rank = np.array(x, np.float64), 0, len(dims)
    for axis, size in enumerate(dims):
        half = size // 2
        shape = [1] * x.ndim
        shape[axis - rank - 2] = -1
        place = np.arange(x.shape[axis - rank - 2]).reshape(shape)
        for i in range(half):
            pair = x[..., begin + i : begin + i + 1] + 1j * x[..., begin + half + i][..., None]
            pair = pair * np.exp(1j * place * base[axis] ** (-2 * i / size))
            x[..., begin + i], x[..., begin + half + i] = pair.real[..., 0], pair.imag[..., 0]
        begin += size
    return x


def expected(name: str, params: dict[str, Any], x: jax.Array) -> np.ndarray:
    """The layer in float64, from its definition."""
    options = LAYERS[name]
    names = ("kernel_size", "stride", "dilation", "is_causal", "boundary")
    window = jax_na.Window(**{n: options[n] for n in names if n in options})
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)

    def project(part: str) -> np.ndarray:
        y = np.einsum("...c,cnd->...nd", np.asarray(x, np.float64), p[part]["kernel"])
        y = y + p[part].get("bias", 0.0)
        if f"{part}_norm_scale" in p:
            y = y / np.sqrt(np.mean(y**2, -1, keepdims=True) + 1e-6) * p[f"{part}_norm_scale"]
        return y

    query, key, value = project("query"), project("key"), project("value")
    if options.get("rope"):
        rank, head = window.rank, query.shape[-1]
        dims = options.get("rope_dims", (head // rank,) * rank)
        base = options.get("rope_base", (10000.0,) * rank)
        query, key = turned(query, dims, base), turned(key, dims, base)
    out, _ = reference_attention(
        query,
        key,
        value,
        window.resolve(x.shape[1:-1]),
        scale=options.get("scale"),
        relative_position_bias=p.get("relative_position_bias"),
    )
    return np.einsum("...nd,ndf->...f", out, p["out"]["kernel"]) + p["out"].get("bias", 0.0)


@pytest.mark.parametrize("name", LAYERS)
def test_layer_is_its_definition(name):
    layer, x = make(name)
    out = layer(x)
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, expected(name, params_of(layer), x), rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("name", LAYERS)
def test_linen_is_the_same_function(name):
    layer, x = make(name)
    twin = jax_na.linen.NeighborhoodAttention(4, **LAYERS[name])
    params = params_of(layer)
    fresh = jax.eval_shape(twin.init, jax.random.key(0), x)["params"]
    assert jax.tree.map(jnp.shape, fresh) == jax.tree.map(jnp.shape, params)
    np.testing.assert_array_equal(twin.apply({"params": params}, x), layer(x))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_linen_is_the_same_function_in_half_precision(dtype):
    layer, x = make("everything", dtype=dtype)
    twin = jax_na.linen.NeighborhoodAttention(4, **LAYERS["everything"], dtype=dtype)
    out = layer(x)
    assert out.dtype == dtype
    np.testing.assert_array_equal(twin.apply({"params": params_of(layer)}, x), out)
    exact = expected("everything", params_of(layer), x)
    np.testing.assert_allclose(out.astype(jnp.float32), exact, atol=0.1 * np.abs(exact).max())


def test_no_batch_axis_and_many():
    layer, x = make("plain")
    whole = layer(x)
    np.testing.assert_allclose(layer(x[0]), whole[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(layer(x[None, :, None])[0, :, 0], whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_whole_axis_is_dense_attention_of_flax(kv_heads):
    options = {"num_kv_heads": kv_heads, "rngs": nnx.Rngs(0)}
    layer = NeighborhoodAttention(4, 16, (None,), **options)
    dense = nnx.MultiHeadAttention(4, 16, decode=False, **options)
    nnx.update(dense, nnx.state(layer, nnx.Param))
    x = normal(2, 9, 16)
    np.testing.assert_allclose(layer(x), dense(x), rtol=1e-4, atol=1e-5)


def test_every_parameter_gets_a_gradient_under_jit():
    layer, x = make("everything")
    graph, params = nnx.split(layer, nnx.Param)

    @jax.jit
    def loss(params, x):
        return jnp.sum(nnx.merge(graph, params)(x) ** 2)

    grads, dx = jax.grad(loss, (0, 1))(params, x)
    for path, leaf in jax.tree_util.tree_leaves_with_path((nnx.to_pure_dict(grads), dx)):
        assert float(jnp.abs(leaf).max()) > 1e-4, path
    step = 1e-2
    change = loss(params, x + step * dx) - loss(params, x - step * dx)
    assert float(change) == pytest.approx(2 * step * float(jnp.vdot(dx, dx)), rel=0.05)


def test_fresh_parameters_can_be_donated():
    # Which fails where two parameters begin as one array.
    layer = NeighborhoodAttention(2, 16, (3, 3), normalize_qk=True, rngs=nnx.Rngs(0))
    _, params = nnx.split(layer, nnx.Param)
    scaled = jax.jit(lambda tree: jax.tree.map(lambda x: 2 * x, tree), donate_argnums=0)(params)
    np.testing.assert_array_equal(scaled["query_norm_scale"][...], np.full(8, 2.0))
    np.testing.assert_array_equal(scaled["key_norm_scale"][...], np.full(8, 2.0))


def test_parameter_dtype_and_implementation():
    layer, x = make("everything", param_dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(params_of(layer))} == {jnp.dtype(jnp.bfloat16)}
    assert layer(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16
    ours, x = make("plain")
    other, _ = make("plain", implementation=["xla"])
    np.testing.assert_allclose(ours(x), other(x), rtol=1e-4, atol=1e-4)


# Dropout of the output


def test_dropout_follows_flax():
    layer, x = make("plain", out_dropout_rate=0.5)
    plain, _ = make("plain")
    with pytest.raises(ValueError, match="deterministic"):
        layer(x)
    exact = plain(x)
    np.testing.assert_array_equal(layer(x, deterministic=True), exact)
    dropped = layer(x, deterministic=False)
    kept = np.asarray(dropped) != 0
    assert 0.3 < kept.mean() < 0.7
    np.testing.assert_allclose(dropped[kept], 2 * exact[kept], rtol=1e-6)
    assert bool(jnp.any(layer(x, deterministic=False) != dropped))
    layer.eval()
    np.testing.assert_array_equal(layer(x), exact)
    layer.train()
    assert bool(jnp.any(layer(x) != exact))


def test_dropout_keys_of_the_call():
    layer, x = make("plain", out_dropout_rate=0.5, deterministic=False, keep_rngs=False)
    with pytest.raises(ValueError, match="rngs"):
        layer(x)
    first = layer(x, rngs=nnx.Rngs(dropout=3))
    np.testing.assert_array_equal(first, layer(x, rngs=nnx.Rngs(dropout=3)))
    assert bool(jnp.any(first != layer(x, rngs=nnx.Rngs(dropout=4))))


def test_dropout_in_linen():
    twin = jax_na.linen.NeighborhoodAttention(4, (3, 3), out_dropout_rate=0.5)
    x = normal(2, 5, 5, 16)
    variables = twin.init(jax.random.key(1), x, deterministic=True)
    exact = twin.apply(variables, x, deterministic=True)
    dropped = twin.apply(variables, x, deterministic=False, rngs={"dropout": jax.random.key(2)})
    kept = np.asarray(dropped) != 0
    assert 0.3 < kept.mean() < 0.7
    np.testing.assert_allclose(dropped[kept], 2 * exact[kept], rtol=1e-6)


# Rotary positions


@pytest.mark.parametrize("spatial", [(7,), (4, 5), (3, 4, 5)])
def test_rotary_scores_depend_on_offsets_alone(spatial):
    rank, head = len(spatial), 12
    rotary = Rotary.split(head, jax_na.Window((1,) * rank), base=30.0)
    query, key = normal(2, head)
    grid = (*spatial, 1, head)
    queries = np.asarray(rotary(jnp.broadcast_to(query, grid)))[..., 0, :]
    keys = np.asarray(rotary(jnp.broadcast_to(key, grid)))[..., 0, :]
    lengths = np.linalg.norm(queries, axis=-1)
    np.testing.assert_allclose(lengths, np.linalg.norm(query) * np.ones(spatial), rtol=1e-5)
    scores: dict[tuple[int, ...], list[float]] = {}
    for i, j in itertools.product(np.ndindex(spatial), repeat=2):
        offset = tuple(np.subtract(j, i))
        scores.setdefault(offset, []).append(float(np.dot(queries[i], keys[j])))
    for values in scores.values():
        np.testing.assert_allclose(values, values[0], rtol=0, atol=1e-4)
    assert np.ptp([values[0] for values in scores.values()]) > 0.1


def test_rotary_leaves_the_other_channels_and_the_dtype():
    rotary = Rotary.split(8, jax_na.Window((3, 3)), (2, 4))
    x = normal(2, 4, 5, 3, 8).astype(jnp.bfloat16)
    out = rotary(x)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_array_equal(out[..., 6:], x[..., 6:])
    np.testing.assert_array_equal(out[:, 0, 0], x[:, 0, 0])
    assert bool(jnp.any(out[:, 1:, 1:, :, :6] != x[:, 1:, 1:, :, :6]))


# Windows larger than the map


@pytest.mark.parametrize(
    ("length", "size", "dilation", "boundary", "fitted"),
    [
        (14, 7, 2, "shift", (7, 2)),
        (13, 7, 2, "shift", (7, 1)),
        (20, 7, 8, "shift", (7, 2)),
        (5, 7, 2, "clip", (5, 1)),
        (15, 4, 5, "wrap", (4, 3)),
        (16, 4, 5, "wrap", (4, 4)),
        (3, None, 1, "shift", (None, 1)),
    ],
)
def test_fit_window(length, size, dilation, boundary, fitted):
    window = fit_window(jax_na.Window((size,), 1, dilation, False, boundary), (length,))
    assert (window.kernel_size[0], window.dilation[0]) == fitted
    window.resolve((length,))


def test_clamped_layer_uses_the_offsets_that_remain():
    big, x = make("plain", kernel_size=(7, 5), use_relative_position_bias=True, clamp_window=True)
    small, _ = make("plain", kernel_size=(4, 5), use_relative_position_bias=True)
    x = x[:, :4]
    params = params_of(big)
    params["relative_position_bias"] = params["relative_position_bias"][:, 3:-3]
    nnx.update(small, nnx.State(params))
    np.testing.assert_array_equal(big(x), small(x))
    strict, _ = make("plain", kernel_size=(7, 5))
    with pytest.raises(ValueError, match=r"kernel_size\[0\].*7"):
        strict(x)


# Refusals and metadata


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 3}, "num_heads should be a divisor of qkv_features = 16, but got 3"),
        ({"num_kv_heads": 3}, "num_kv_heads should be a divisor of num_heads = 4, but got 3"),
        ({"kernel_size": (3, 0)}, r"kernel_size\[1\].*0"),
        ({"stride": 4}, r"stride\[0\].*4"),
        (
            {"kernel_size": (None, 3), "use_relative_position_bias": True},
            r"kernel_size\[0\] should be an integer, but got None",
        ),
        ({"kernel_size": (3, 3, 3), "rope": True}, "multiple of 6, but got 4; rope_dims"),
        ({"rope": True, "rope_dims": (4,)}, "rope_dims should have 2 entries"),
        ({"rope": True, "rope_dims": (1, 2)}, r"rope_dims\[0\] should be an even .* got 1"),
        ({"rope": True, "rope_dims": (2.0, 2)}, r"rope_dims\[0\] should be an even .* got 2.0"),
        ({"implementation": "best"}, "implementation should be None or from .* got 'best'"),
        ({"scale": float("nan")}, "scale should be finite, but got nan"),
        ({"rope": True, "rope_dims": (4, 2)}, "rope_dims should sum to between 2 and .* 4"),
        ({"rope": True, "rope_dims": (0, 0)}, "rope_dims should sum"),
        ({"rope": True, "rope_base": (1.0,)}, "rope_base should be one value or 2"),
        ({"rope": True, "rope_base": -1.0}, r"rope_base\[0\] should be above 0, but got -1"),
        ({"rope": True, "boundary": "wrap"}, r"rope_dims\[0\] should be 0 where boundary\[0\]"),
        ({"rope_dims": (2, 2)}, "rope_dims should be None where rope is False"),
    ],
)
def test_refused_options(options, message):
    options = {"num_heads": 4, "kernel_size": (3, 3), **options}
    with pytest.raises(ValueError, match=message):
        NeighborhoodAttention(in_features=16, **options, rngs=nnx.Rngs(0))
    twin = jax_na.linen.NeighborhoodAttention(**options)
    with pytest.raises(ValueError, match=message):
        twin.init(jax.random.key(0), jnp.ones((8,) * twin_rank(options) + (16,)))


def twin_rank(options: dict[str, Any]) -> int:
    return len(options["kernel_size"])


def test_refused_inputs():
    layer, _ = make("plain")
    with pytest.raises(ValueError, match=r"16 features, but got shape \(2, 6, 8, 8\)"):
        layer(jnp.ones((2, 6, 8, 8)))
    with pytest.raises(ValueError, match="at least 3 axes"):
        layer(jnp.ones((7, 16)))
    with pytest.raises(ValueError, match="at least 3 axes"):
        jax_na.linen.NeighborhoodAttention(4, (3, 3)).init(jax.random.key(0), jnp.ones(()))
    clamped, _ = make("plain", clamp_window=True)
    with pytest.raises(ValueError, match="spatial axis 1 should have a length of at least 1"):
        clamped(jnp.ones((2, 6, 0, 16)))


def test_sharding_metadata():
    mesh = jax.make_mesh((1,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
    axes = {
        "kernel_metadata": (None, "model", None),
        "bias_metadata": ("model", None),
        "out_kernel_metadata": ("model", None, None),
        "out_bias_metadata": (None,),
        "query_norm_scale_metadata": (None,),
        "key_norm_scale_metadata": (None,),
        "relative_position_bias_metadata": ("model", None, None),
    }
    options: dict[str, Any] = {name: {"out_sharding": names} for name, names in axes.items()}

    def build() -> NeighborhoodAttention:
        more = {**LAYERS["everything"], **options}
        return NeighborhoodAttention(4, 16, **more, rngs=nnx.Rngs(0))

    with jax.set_mesh(mesh):
        params = nnx.state(nnx.eval_shape(build), nnx.Param)
        specs = nnx.to_pure_dict(nnx.get_partition_spec(params))
    spec = jax.sharding.PartitionSpec
    for part in ("query", "key", "value"):
        assert specs[part] == {"kernel": spec(None, "model", None), "bias": spec("model", None)}
    assert specs["out"] == {"kernel": spec("model", None, None), "bias": spec(None)}
    assert specs["relative_position_bias"] == spec("model", None, None)
    assert specs["query_norm_scale"] == specs["key_norm_scale"] == spec(None)
    assert len(specs) == 7


def test_heads_and_batch_on_an_explicit_mesh():
    if jax.device_count() < 4:
        pytest.skip("needs 4 devices")
    axes = (jax.sharding.AxisType.Explicit,) * 2
    mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=axes)
    spec = jax.sharding.PartitionSpec
    layer, x = make("position-bias", use_qkv_bias=False)
    expected_out = layer(x)
    by_heads = {"query": spec(None, "model"), "key": spec(None, "model")}
    by_heads |= {"value": spec(None, "model"), "out": spec("model")}
    by_heads["relative_position_bias"] = spec("model")
    with jax.set_mesh(mesh):
        for path, leaf in nnx.to_flat_state(nnx.state(layer, nnx.Param)):
            place = spec() if path[-1] == "bias" else by_heads[str(path[0])]
            leaf.set_value(jax.device_put(leaf[...], jax.NamedSharding(mesh, place)))
        out = layer(
            jax.device_put(x, jax.NamedSharding(mesh, spec("data"))),
            qkv_sharding=spec("data", None, None, "model", None),
            out_sharding=spec("data"),
        )
    assert jax.typeof(out).sharding.spec == spec("data", None, None, None)
    np.testing.assert_allclose(out, expected_out, rtol=1e-5, atol=1e-5)


def test_linen_partitioning_of_initialisers():
    names = (None, "model", None)
    twin = jax_na.linen.NeighborhoodAttention(
        4,
        (3, 3),
        use_relative_position_bias=True,
        kernel_init=nn.with_partitioning(nn.initializers.lecun_normal(), names),
        relative_position_bias_init=nn.with_partitioning(nn.initializers.zeros_init(), names),
    )
    variables = jax.eval_shape(twin.init, jax.random.key(0), jnp.ones((5, 5, 16)))
    specs = nn.get_partition_spec(variables)["params"]
    assert specs["query"]["kernel"] == jax.sharding.PartitionSpec(*names)
    assert specs["relative_position_bias"] == jax.sharding.PartitionSpec(*names)


def test_plain_import_leaves_flax_alone():
    code = "import sys, jax_na; assert not [m for m in sys.modules if m.startswith('flax')]"
    subprocess.run([sys.executable, "-c", code], check=True)
