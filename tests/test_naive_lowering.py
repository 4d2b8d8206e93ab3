"""The naive kernels in what is compiled for CUDA, on a machine that need not have a GPU."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import jax_na
from jax_na import _core, _implementations

pytestmark = pytest.mark.skipif(not _core.has_cuda, reason="built without a CUDA compiler")

checks = jax_na.export_safety_checks


def targets(function, *arguments, platforms=("cuda",)):
    """The custom calls of jax_na in a function lowered for the platforms."""
    exported = export.export(jax.jit(function), platforms=platforms, disabled_checks=checks)
    return set(re.findall(r"jax_na_\w+", exported(*arguments).mlir_module()))


def attend(x, **keywords):
    return jax_na.na2d(x, x, x, 3, **keywords)


def tokens(features, dtype="float32"):
    return np.ones((2, 6, 7, 2, features), dtype)


def test_naive_is_listed_and_refused_where_there_is_no_gpu():
    listed = {one.name: one for one in jax_na.implementations("cuda")}
    assert listed["naive"].available
    assert "float64" in str(listed["naive"])
    assert not {one.name: one for one in jax_na.implementations("cpu")}["naive"].available


@pytest.fixture
def cuda_by_default(monkeypatch):
    """As if JAX had a GPU: what is traced here is for lowering only."""
    monkeypatch.setattr(_implementations, "_platform", lambda name: name or "cuda")


@pytest.mark.parametrize("features", [8, 5, 256])
def test_naive_by_name(cuda_by_default, features):
    found = targets(lambda x: attend(x, implementation="naive"), tokens(features))
    assert found == {"jax_na_cuda_naive_forward"}


@pytest.mark.parametrize(
    ("implementation", "features", "message"),
    [
        ("naive", 257, "head_dim up to 256, but got 257; pass implementation='xla'"),
        ("fused", 12, "multiple of 8 up to 256, but got 12; pass implementation='naive' or 'xla'"),
        ("fused", 264, "multiple of 8 up to 256, but got 264; pass implementation='xla'"),
    ],
)
def test_refusals_name_what_can_do_it(cuda_by_default, implementation, features, message):
    with pytest.raises(NotImplementedError, match=message):
        attend(tokens(features), implementation=implementation)


def test_a_sequence_goes_on_to_what_can_do_it(cuda_by_default):
    found = targets(lambda x: attend(x, implementation=("fused", "naive")), tokens(12))
    assert found == {"jax_na_cuda_naive_forward"}


def weigh(x, **keywords):
    bias = jnp.ones((2, 5, 5), x.dtype)
    weights = jax.nn.softmax(jax_na.na_qk(x, x, (3, 3), relative_position_bias=bias, **keywords))
    return jnp.sum(jax_na.na_av(weights, x, (3, 3), **keywords))


@pytest.mark.parametrize("keywords", [{}, {"implementation": "naive"}])
def test_the_halves(cuda_by_default, keywords):
    forward = targets(lambda x: weigh(x, **keywords), tokens(5))
    assert forward == {"jax_na_cuda_unfused_products", "jax_na_cuda_unfused_sums"}
    backward = targets(jax.grad(lambda x: weigh(x, **keywords)), tokens(5))
    assert backward == {
        f"jax_na_cuda_unfused_{kind}" for kind in ("products", "sums", "transposed")
    }


def test_the_halves_elsewhere_are_pure_jax(cuda_by_default):
    assert targets(jax.grad(weigh), tokens(5), platforms=("cpu",)) == set()


def test_the_halves_of_too_many_features(cuda_by_default):
    assert targets(weigh, tokens(257)) == set()
    with pytest.raises(NotImplementedError, match="up to 256"):
        weigh(tokens(257), implementation="naive")
