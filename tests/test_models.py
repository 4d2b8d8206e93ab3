"""NAT and DiNAT: sizes of the published configurations, shapes, training mode and refusals."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_na import models
from jax_na.models import NAT, NATConfig

SMALL = NATConfig(
    depths=(2, 1),
    num_heads=(2, 4),
    embed_dim=16,
    kernel_size=3,
    dilations=((1, 2), (1,)),
    num_classes=5,
    tokenizer_strides=(2, 1),
)


def build(config: NATConfig = SMALL, **options: Any) -> NAT:
    """A model with random parameters; NumPy draws them, so that no initialiser compiles."""
    model = nnx.eval_shape(lambda: NAT(config, rngs=nnx.Rngs(0), **options))
    rng = np.random.default_rng(0)

    def fill(path, leaf):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.key(rng.integers(1 << 30))
        scale = 0.3 if jnp.issubdtype(leaf.dtype, jnp.floating) else 0.0
        return jnp.asarray(scale * rng.standard_normal(leaf.shape), leaf.dtype)

    nnx.update(model, jax.tree_util.tree_map_with_path(fill, nnx.state(model)))
    return model


def images(batch: int = 2, side: int = 16) -> jax.Array:
    rng = np.random.default_rng(1)
    return jnp.asarray(rng.standard_normal((batch, side, side, 3)), jnp.float32)


def count(model: nnx.Module) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def test_published_size_of_a_whole_model():
    model = nnx.eval_shape(lambda: NAT(models.nat_mini(), rngs=nnx.Rngs(0)))
    assert [len(stage) for stage in model.stages] == [3, 4, 6, 5]
    assert count(model) == 19_984_174


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("nat_mini", 19_984_174),
        ("nat_tiny", 27_901_582),
        ("nat_small", 50_743_297),
        ("nat_base", 89_769_652),
        ("dinat_large", 200_943_514),
    ],
)
def test_published_sizes(name, parameters):
    config = getattr(models, name)()
    heads = [width // n for width, n in zip(config.widths(), config.num_heads, strict=True)]
    assert heads == [32] * 4
    # All blocks of a stage are equal, so that one of each is enough to trace.
    shallow = dataclasses.replace(config, depths=(1,) * 4, dilations=None)
    model = nnx.eval_shape(lambda: NAT(shallow, rngs=nnx.Rngs(0)))
    blocks = [count(stage[0]) for stage in model.stages]
    more = sum((n - 1) * size for n, size in zip(config.depths, blocks, strict=True))
    assert count(model) + more == parameters


@pytest.mark.parametrize("size", ["mini", "tiny", "small", "base"])
def test_dinat_is_nat_with_dilations(size):
    nat, dinat = getattr(models, f"nat_{size}")(), getattr(models, f"dinat_{size}")()
    assert nat.dilations is None
    # 7 x dilation is exactly the side of the stage's map at 224x224.
    assert [max(stage) * 7 for stage in dinat.dilations] == [56, 28, 14, 7]
    assert all(set(stage[::2]) == {1} for stage in dinat.dilations)
    scale = None if size == "small" else nat.layer_scale
    assert dinat == dataclasses.replace(nat, dilations=dinat.dilations, layer_scale=scale)


def test_lists_are_tuples():
    config = models.NATConfig([1], [2], 8, kernel_size=3, dilations=[[1]])
    assert config == models.NATConfig((1,), (2,), 8, kernel_size=3, dilations=((1,),))
    hash(config)


def test_presets_can_be_changed():
    config = models.dinat_tiny(num_classes=10, depths=(1, 1), num_heads=(2, 4))
    assert config.dilations == ((1,), (1,))
    assert (config.num_classes, config.embed_dim) == (10, 64)
    dilations = ((1,) * 3, (1,) * 4, (2,) * 18, (1,) * 5)
    assert models.dinat_tiny(dilations=dilations).dilations == dilations


def test_shapes_at_the_published_resolution():
    config = models.dinat_mini(depths=(2, 2, 2, 1))
    model = nnx.eval_shape(lambda: NAT(config, deterministic=True, rngs=nnx.Rngs(0)))
    graph, state = nnx.split(model)
    x = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
    maps = jax.eval_shape(lambda s, x: nnx.merge(graph, s).features(x), state, x)
    assert [m.shape for m in maps] == [(2, 56 >> s, 56 >> s, 64 << s) for s in range(4)]


def test_logits_and_features():
    model = build()
    x = images()
    maps = model.features(x)
    assert [m.shape for m in maps] == [(2, 8, 8, 16), (2, 4, 4, 32)]
    logits = model(x)
    head = model.head
    assert head is not None
    np.testing.assert_allclose(logits, head(maps[-1].mean((1, 2))), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(model(x[1:]), logits[1:], rtol=1e-4, atol=1e-4)
    headless = build(dataclasses.replace(SMALL, num_classes=0))
    assert headless(x).shape == (2, 32)


def test_a_token_of_the_first_stage_is_seen_through_windows_alone():
    model = build()
    x = model.tokenize(images(2))
    assert x.shape == (2, 8, 8, 16)
    for block in range(2):
        module = model.stages[0][block]
        window = module.attention.window
        assert window.dilation == (block + 1, block + 1)
        after, before = np.asarray(module(x.at[0, 4, 4].add(1.0))), np.asarray(module(x))
        changed = np.any(after != before, axis=-1)
        seen = [window.visible((8, 8), query)[4, 4] for query in np.ndindex(8, 8)]
        np.testing.assert_array_equal(changed[0], np.reshape(seen, (8, 8)))
        assert not changed[1].any()


def test_gradients_reach_every_parameter():
    config = dataclasses.replace(SMALL, depths=(1, 1), dilations=None, layer_scale=0.5)
    graph, params = nnx.split(build(config), nnx.Param)
    grads = jax.jit(jax.grad(lambda p, x: jnp.mean(nnx.merge(graph, p)(x) ** 2)))(params, images())
    for path, leaf in jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(grads)):
        assert bool(jnp.isfinite(leaf).all()), path
        # A bias of the keys adds the same to all scores of a query: softmax ignores it.
        ignored = jax.tree_util.keystr(path).endswith("['key']['bias']")
        assert ignored == (float(jnp.abs(leaf).max()) < 1e-6), path


def test_drop_path_needs_a_mode_and_drops_whole_images():
    config = dataclasses.replace(
        SMALL, depths=(2,), num_heads=(2,), dilations=None, drop_path_rate=0.5
    )
    model = build(config)
    x = jnp.tile(images(1, 8), (16, 1, 1, 1))
    with pytest.raises(ValueError, match="deterministic"):
        model(x)
    model.eval()
    exact = model(x)
    np.testing.assert_allclose(
        exact, jnp.broadcast_to(exact[:1], exact.shape), rtol=1e-4, atol=1e-4
    )
    model.train()
    logits = np.asarray(model(x))
    # The two branches of the last block are kept or dropped, each for a whole image.
    assert 1 < len(np.unique(logits.round(3), axis=0)) <= 4
    np.testing.assert_array_equal(model(x, deterministic=True), exact)


def test_bfloat16():
    model = build(dtype=jnp.bfloat16)
    graph, params = nnx.split(model, nnx.Param)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.float32)}
    maps = jax.eval_shape(lambda p, x: nnx.merge(graph, p).features(x), params, images())
    assert {leaf.dtype for leaf in maps} == {jnp.dtype(jnp.bfloat16)}


def test_small_maps_raise_or_clamp():
    config = dataclasses.replace(SMALL, kernel_size=5)
    x = images(1, 8)  # maps of 4x4 and 2x2
    with pytest.raises(ValueError, match=r"kernel_size\[0\].*5"):
        build(config)(x)
    clamped = build(dataclasses.replace(config, clamp_window=True))
    maps = clamped.features(x)
    assert [m.shape for m in maps] == [(1, 4, 4, 16), (1, 2, 2, 32)]
    assert all(bool(jnp.isfinite(m).all()) for m in maps)
    # Dense attention: every token of the map sees every other.
    tokens = clamped.tokenize(x)
    block = clamped.stages[0][0]
    assert bool((block(tokens.at[0, 0, 0, 0].add(1.0)) != block(tokens)).any(-1).all())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: NATConfig((2, 2), (2,), 16), "num_heads should have one entry per stage"),
        (lambda: NATConfig((), (), 16), "num_heads should have one entry per stage"),
        (
            lambda: NATConfig((2, 1), (2, 2), 16, dilations=((1,), (1,))),
            "dilations should have one entry per block",
        ),
        (lambda: build()(jnp.ones((2, 16, 16, 1))), r"should have shape \[batch, H, W, 3\]"),
        (lambda: build()(jnp.ones((16, 16, 3))), r"got \(16, 16, 3\)"),
        (
            lambda: build(dataclasses.replace(SMALL, num_heads=(3, 4))),
            "num_heads should be a divisor",
        ),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
