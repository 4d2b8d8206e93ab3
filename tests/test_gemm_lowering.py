"""The GEMM kernels in what is compiled for CUDA, on a machine that need not have a GPU."""

import collections
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_na
from jax_na import _core, _implementations

pytestmark = pytest.mark.skipif(not _core.has_cuda, reason="built without a CUDA compiler")

FORWARD, BACKWARD = "jax_na_cuda_gemm_forward", "jax_na_cuda_gemm_backward"


@pytest.fixture
def cuda_by_default(monkeypatch):
    """As if JAX had a GPU: what is traced here is for lowering only."""
    monkeypatch.setattr(_implementations, "_platform", lambda name: name or "cuda")


def tokens(features, dtype="float32"):
    return np.ones((2, 6, 7, 2, features), dtype)


def attend(x, **keywords):
    return jax_na.na2d(x, x, x, 3, **keywords)


def lowered(function, *operands):
    return jax.jit(function).trace(*operands).lower(lowering_platforms=("cuda",)).as_text()


def test_listed_and_refused_where_there_is_no_gpu():
    for platform, available in (("cuda", True), ("cpu", False)):
        listed = {one.name: one for one in jax_na.implementations(platform)}
        assert listed["gemm"].available == available


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_calls(cuda_by_default, dtype):
    def loss(x):
        return jnp.sum(attend(x, implementation="gemm").astype(jnp.float32))

    text = lowered(jax.grad(loss), jnp.asarray(tokens(32), dtype))
    assert collections.Counter(re.findall(r"@(jax_na_\w+)", text)) == {FORWARD: 1, BACKWARD: 1}


def test_the_workspace_holds_the_window_of_every_query(cuda_by_default):
    text = lowered(lambda x: attend(x, implementation="gemm"), tokens(32))
    (size,) = re.findall(rf"@{FORWARD}\b.*tensor<(\d+)xui8>", text)
    windows = 2 * 6 * 7 * 2 * 3 * 3 * 4  # batch, tokens, heads, slots, bytes
    assert windows <= int(size) < windows + 256


def test_refusals_name_what_can_do_it(cuda_by_default):
    with pytest.raises(NotImplementedError, match="got 12; pass implementation='naive' or 'xla'"):
        attend(tokens(12), implementation="gemm")
    text = lowered(lambda x: attend(x, implementation=("gemm", "naive")), tokens(12))
    assert "jax_na_cuda_naive_forward" in text
