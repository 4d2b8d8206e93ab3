"""Runs attention and its gradients through the library that Bazel built, against pure JAX."""

import jax
import numpy as np

import jax_na
from jax_na import _core


def loss(query: jax.Array, key: jax.Array, value: jax.Array, implementation: str) -> jax.Array:
    out = jax_na.na2d(query, key, value, 5, dilation=(1, 2), implementation=implementation)
    return (out * out).sum()


def main() -> None:
    assert ".runfiles" in (_core.__file__ or ""), f"not the library under test: {_core.__file__}"
    inputs = [
        jax.random.normal(key, (2, 9, 13, 4, 16)) for key in jax.random.split(jax.random.key(0), 3)
    ]
    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)), static_argnames="implementation")
    compiled = step.lower(*inputs, implementation="fused").compile().as_text() or ""
    assert compiled.count("custom_call_target=") >= 2, "forward and backward are not custom calls"
    fused = step(*inputs, implementation="fused")
    plain = step(*inputs, implementation="xla")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), fused, plain)


if __name__ == "__main__":
    main()
