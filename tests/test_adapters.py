"""neighborhood_attention_fn, for Flax's own attention modules."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_na.nnx import NeighborhoodAttention, neighborhood_attention_fn

FN = neighborhood_attention_fn((3, 3))
GRID = jnp.asarray(np.random.default_rng(1).standard_normal((2, 5, 6, 16)), jnp.float32)


def linen_module(attention_fn: Any = FN, **options: Any) -> nn.Module:
    return nn.MultiHeadDotProductAttention(num_heads=4, attention_fn=attention_fn, **options)


def nnx_module(attention_fn: Any = FN, **options: Any) -> nnx.MultiHeadAttention:
    options = {"decode": False, **options}
    return nnx.MultiHeadAttention(4, 16, attention_fn=attention_fn, rngs=nnx.Rngs(0), **options)


@functools.cache
def layer_on_grid(dtype: Any = None, **options: Any) -> tuple[nnx.State, dict[str, Any], jax.Array]:
    """Parameters of a layer, as NNX state and as Linen variables, and its output on GRID."""
    layer = NeighborhoodAttention(4, 16, (3, 3), **options, dtype=dtype, rngs=nnx.Rngs(0))
    params = nnx.state(layer, nnx.Param)
    return params, {"params": nnx.to_pure_dict(params)}, layer(GRID)


@pytest.mark.parametrize("rope", [False, True])
def test_flax_modules_with_the_adapter_are_the_layer(rope):
    state, variables, out = layer_on_grid(dilation=(1, 2), rope=rope)
    attention_fn = neighborhood_attention_fn((3, 3), dilation=(1, 2), rope=rope)
    module = nnx_module(attention_fn)
    nnx.update(module, state)
    np.testing.assert_array_equal(module(GRID), out)
    np.testing.assert_array_equal(linen_module(attention_fn).apply(variables, GRID), out)


def test_adapter_computes_in_the_dtype_of_the_module():
    state, variables, out = layer_on_grid(dtype=jnp.bfloat16)
    assert out.dtype == jnp.bfloat16
    module = nnx_module(dtype=jnp.bfloat16)
    nnx.update(module, state)
    np.testing.assert_array_equal(module(GRID), out)
    np.testing.assert_array_equal(linen_module(dtype=jnp.bfloat16).apply(variables, GRID), out)


def test_adapter_takes_the_grouped_heads_of_nnx():
    state, _, out = layer_on_grid(num_kv_heads=2)
    module = nnx_module(num_kv_heads=2)
    nnx.update(module, state)
    np.testing.assert_array_equal(module(GRID), out)


@pytest.mark.parametrize("module", [nnx, nn])
def test_adapter_names_every_argument_of_flax(module):
    theirs = set(inspect.signature(module.dot_product_attention).parameters)
    passed = {"query", "key", "value", "mask", "dropout_rng", "dropout_rate", "deterministic"}
    assert passed <= theirs
    ours = inspect.signature(FN).parameters
    assert theirs <= set(ours)
    assert not [p for p in ours.values() if p.kind is inspect.Parameter.VAR_KEYWORD]


def test_adapter_names_every_argument_that_nnx_passes():
    seen: dict[str, Any] = {}

    def record(query, key, value, **rest):
        seen.update(rest)
        return value

    nnx_module(record)(GRID)
    assert "mask" in seen
    assert set(seen) <= set(inspect.signature(FN).parameters)


def test_nnx_refusals():
    mask = jnp.ones((2, 5, 4, 6, 6), bool)
    with pytest.raises(NotImplementedError, match="mask"):
        nnx_module()(GRID, mask=mask)
    with pytest.raises(NotImplementedError, match="sow"):
        nnx_module()(GRID, sow_weights=True)
    with pytest.raises(NotImplementedError, match=r"dropout_rate.*0\.1"):
        nnx_module(dropout_rate=0.1)(GRID, deterministic=False)
    with pytest.raises(ValueError, match="is_causal"):
        nnx_module()(GRID, is_causal=True)
    decoder = nnx_module(neighborhood_attention_fn((3,)), decode=True)
    decoder.init_cache((2, 7, 16))
    with pytest.raises(NotImplementedError, match="decod"):
        decoder(GRID[:, 0, :1])


def test_linen_refusals():
    module = linen_module()
    variables = module.init(jax.random.key(0), GRID)
    with pytest.raises(NotImplementedError, match="mask"):
        module.apply(variables, GRID, mask=jnp.ones((2, 5, 4, 6, 6), bool))
    with pytest.raises(NotImplementedError, match="sow"):
        module.apply(variables, GRID, sow_weights=True, mutable=["intermediates"])
    with pytest.raises(NotImplementedError, match=r"dropout_rate.*0\.1"):
        linen_module(dropout_rate=0.1).apply(
            variables, GRID, deterministic=False, rngs={"dropout": jax.random.key(1)}
        )
    einsums = {
        "qk_attn_weights_einsum_cls": lambda: jnp.einsum,
        "attn_weights_value_einsum_cls": lambda: jnp.einsum,
    }
    with pytest.raises(NotImplementedError, match="einsum"):
        linen_module(**einsums).apply(variables, GRID)
    decoder = linen_module(neighborhood_attention_fn((3,)), decode=True)
    sequence = GRID[:, 0]
    state = decoder.init(jax.random.key(0), sequence)
    with pytest.raises(NotImplementedError, match="decod"):
        decoder.apply(state, sequence[:, :1], mutable=["cache"])


def test_what_the_adapter_need_not_refuse():
    state, variables, out = layer_on_grid()
    idle = nnx_module(dropout_rate=0.1)
    nnx.update(idle, state)
    np.testing.assert_array_equal(idle(GRID, deterministic=True), out)
    forced = linen_module(force_fp32_for_softmax=True)
    np.testing.assert_array_equal(forced.apply(variables, GRID), out)
    causal = nnx_module(neighborhood_attention_fn((3, 3), is_causal=True))
    np.testing.assert_array_equal(causal(GRID, is_causal=True), causal(GRID))
    assert bool(jnp.any(causal(GRID) != out))


@pytest.mark.parametrize("name", ["bias", "input_positions", "einsum_dot_general"])
def test_adapter_refuses_other_arguments(name):
    heads = jnp.ones((5, 5, 2, 4))
    extra: dict[str, Any] = {name: jnp.ones(())}
    with pytest.raises(NotImplementedError, match="cannot honour"):
        FN(heads, heads, heads, **extra)


def test_adapters_are_values():
    build = functools.partial(neighborhood_attention_fn, rope=True, rope_dims=[2, 2])
    first, second = build([3, 3], implementation=["xla"]), build((3, 3), implementation=("xla",))
    assert first == second
    assert hash(first) == hash(second)
    assert first != build((3, 5))
    with pytest.raises(ValueError, match=r"kernel_size\[0\]"):
        neighborhood_attention_fn((0,))
