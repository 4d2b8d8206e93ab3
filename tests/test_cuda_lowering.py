"""What is compiled for CUDA, on a machine that need not have a GPU."""

import collections
import re

import jax
import jax.numpy as jnp
import pytest
from jax import export

import jax_na
from jax_na import _core, _implementations

FUNCTIONS = {1: jax_na.na1d, 2: jax_na.na2d, 3: jax_na.na3d}
SHAPES = {1: (40,), 2: (6, 7), 3: (3, 4, 5)}
FORWARD, BACKWARD = "jax_na_cuda_fused_forward", "jax_na_cuda_fused_backward"

needs_kernels = pytest.mark.skipif(
    not _core.has_cuda, reason="jax_na was built without a CUDA compiler"
)


def query(rank, dtype="bfloat16", head_dim=32):
    return jax.ShapeDtypeStruct((2, *SHAPES[rank], 4, head_dim), jnp.dtype(dtype))


def calls(function, *operands):
    """How often each custom call of jax_na stands in what is lowered for CUDA."""
    text = jax.jit(function).trace(*operands).lower(lowering_platforms=("cuda",)).as_text()
    return collections.Counter(re.findall(r"@(jax_na_\w+)", text))


def attend(rank, **options):
    return lambda q: FUNCTIONS[rank](q, q, q, 3, **options)


def loss(rank, **options):
    return lambda q: jnp.sum(attend(rank, **options)(q).astype(jnp.float32))


@needs_kernels
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("rank", FUNCTIONS)
def test_fused_calls(rank, dtype):
    q = query(rank, dtype)
    assert calls(attend(rank), q) == {FORWARD: 1}
    assert calls(jax.grad(loss(rank)), q) == {FORWARD: 1, BACKWARD: 1}


@needs_kernels
@pytest.mark.parametrize("head_dim", [8, 72, 256])
def test_head_dimensions_with_kernels(head_dim):
    assert calls(attend(1), query(1, head_dim=head_dim)) == {FORWARD: 1}


@needs_kernels
@pytest.mark.parametrize(("dtype", "head_dim"), [("float64", 32), ("bfloat16", 12), ("float32", 5)])
def test_other_problems_run_the_naive_kernels(dtype, head_dim):
    with jax.enable_x64(dtype == "float64"):
        found = calls(jax.grad(loss(2)), query(2, dtype, head_dim))
    assert found == {"jax_na_cuda_naive_forward": 1, "jax_na_cuda_naive_backward": 1}


@needs_kernels
def test_what_no_kernels_can_do_is_pure_jax():
    assert not calls(jax.grad(loss(2)), query(2, head_dim=264))


@needs_kernels
@pytest.mark.parametrize(("names", "forward"), [(jax_na.RESIDUAL_NAMES, 1), ((), 2)])
def test_named_residuals_save_the_recomputation(names, forward):
    policy = jax.checkpoint_policies.save_only_these_names(*names)
    step = jax.checkpoint(lambda q: loss(2)(jnp.sin(q)), policy=policy)
    assert calls(jax.value_and_grad(step), query(2, "float32")) == {FORWARD: forward, BACKWARD: 1}


@needs_kernels
def test_precision_is_an_attribute():
    def precision(value, dtype="float32"):
        lowered = jax.jit(attend(2, precision=value)).trace(query(2, dtype))
        return re.findall(
            r"precision = (\d)", lowered.lower(lowering_platforms=("cuda",)).as_text()
        )

    assert precision(None) == precision("default") == ["0"]
    assert precision("highest") == ["1"]
    exact = ("highest", "float32", "F32_F32_F32", "F64_F64_F64", "BF16_BF16_F32_X9")
    fast = ("default", "high", "tensorfloat32", "TF32_TF32_F32", "BF16_BF16_F32")
    for name in exact + fast:
        with jax.default_matmul_precision(name):
            assert precision(None) == [str(int(name in exact))]
            assert precision("default") == ["0"]
    # Products of 16-bit numbers are exact anyway, and there are no other kernels for them.
    assert precision("highest", "bfloat16") == precision("highest", "float16") == ["0"]


@needs_kernels
def test_deterministic_is_an_attribute_of_the_backward_pass():
    def found(**options):
        lowered = jax.jit(jax.grad(loss(2, **options))).trace(query(2))
        text = lowered.lower(lowering_platforms=("cuda",)).as_text()
        return re.findall(r"@(jax_na_\w+).*?deterministic = (\d)", text)

    assert found() == found(deterministic=False) == [(BACKWARD, "0")]
    assert found(deterministic=True) == [(BACKWARD, "1")]


@pytest.mark.parametrize(
    ("implementation", "head_dim"), [("xla", 32), (("gemm", "xla"), 264), (None, 264)]
)
def test_pure_jax_is_not_called_deterministic_on_cuda(monkeypatch, implementation, head_dim):
    def run():
        q = query(2, head_dim=head_dim)
        jax.eval_shape(attend(2, implementation=implementation, deterministic=True), q)

    if implementation == "xla" or implementation is None:
        run()  # on CPUs it is
    monkeypatch.setattr(_implementations, "_platform", lambda name: name or "cuda")
    with pytest.raises(NotImplementedError, match="xla_gpu_deterministic_ops"):
        run()


@needs_kernels
@pytest.mark.parametrize("platforms", [("cuda",), ("cpu", "cuda")])
def test_export(platforms):
    step = jax.jit(jax.grad(loss(2)))
    with pytest.raises(ValueError, match="no compatibility guarantees"):
        export.export(step, platforms=platforms)(query(2))
    exported = export.export(
        step, platforms=platforms, disabled_checks=jax_na.export_safety_checks
    )(query(2))
    again = export.deserialize(exported.serialize())
    assert again.platforms == platforms
    found = set(re.findall(r"@(jax_na_\w+)", again.mlir_module()))
    expected = {FORWARD, BACKWARD}
    if "cpu" in platforms:
        expected |= {"jax_na_cpu_forward", "jax_na_cpu_backward"}
    assert found == expected


def test_build_without_kernels_says_so(monkeypatch):
    monkeypatch.setattr(_core, "has_cuda", False)
    *compiled, xla = jax_na.implementations("cuda")
    for one in compiled:
        assert not one.available
        assert "built without a CUDA compiler" in one.reason
    assert xla.available
    # Tensors of their own: what was traced for others is remembered.
    assert not calls(jax.grad(loss(2, scale=0.7)), query(2))
    required = loss(2, scale=0.7, implementation="fused")
    with pytest.raises(NotImplementedError):
        calls(required, query(2))
