"""Which kernels run the fused backward pass on CUDA devices; there need not be one."""

import pytest

import jax_na
from jax_na import _core, _ffi

pytestmark = pytest.mark.skipif(
    not _core.has_cuda, reason="jax_na was built without a CUDA compiler"
)

H100_MULTIPROCESSORS = 132


def problem(window, spatial, head_dim=128, additional=0, bias=0, batch=1, dilation=1):
    resolved = jax_na.Window(window, dilation=dilation).resolve(spatial)
    geometry = _ffi.Geometry.of(resolved, spatial, 1.0)
    return geometry.problem(batch, 4, 2, head_dim, head_dim, additional, bias)


def choice(of, dtype="bfloat16", deterministic=False):
    return _core.cuda_fused_backward_choice(of, dtype, False, H100_MULTIPROCESSORS, deterministic)


def workspace(of, dtype="bfloat16", deterministic=False):
    return _core.cuda_fused_backward_workspace(of, dtype, deterministic)


@pytest.mark.parametrize("head_dim", [32, 64, 96, 128, 192, 256, 40, 104, 200])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_large_windows_run_the_hopper_kernel(head_dim, dtype):
    text = choice(problem((40, 40), (128, 128), head_dim), dtype)
    assert text.startswith("sm_90a: ")
    assert "rather than warps: " in text


@pytest.mark.parametrize("additional", [0, 70])
@pytest.mark.parametrize("head_dim", [32, 64, 96, 128, 192, 256, 40, 104, 200])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_deterministic_passes_run_two_hopper_kernels(head_dim, dtype, additional):
    of = problem((40, 40), (128, 128), head_dim, additional)
    text = choice(of, dtype, deterministic=True)
    first, second = text.split("\n")[0].split(", and ")
    assert first.startswith("sm_90a: ")
    assert "keys 1x" in first.split("warpgroups")[0]
    assert second.startswith("queries 1x")


def test_scratch_space_is_that_of_the_slab():
    """Its kernels are not those of the whole: 40 features need an axis of length one."""
    whole = problem((3, 3, 3), (9, 9, 9), 40)
    slab = whole.slab((1, 9, 9), (3, 9, 9))
    assert "sm_90a" in choice(whole).split("rather than ")[1]
    assert workspace(slab) < workspace(whole)
    assert workspace(whole.slab((9, 9, 9), (9, 9, 9))) == workspace(whole)
    for queries, keys in [((0, 9, 9), (9, 9, 9)), ((9, 9, 10), (9, 9, 9)), ((9, 9, 9), (9, 10, 9))]:
        with pytest.raises(ValueError, match="a slab should have queries and keys of its axis"):
            whole.slab(queries, keys)


@pytest.mark.parametrize(
    ("reason", "options", "dtype", "deterministic"),
    [
        ("neither bfloat16 nor float16", {}, "float32", False),
        ("a relative position bias", {"bias": 1}, "bfloat16", False),
        ("a relative position bias", {"bias": 1}, "bfloat16", True),
    ],
)
def test_other_problems_run_the_kernels_for_every_gpu(reason, options, dtype, deterministic):
    text = choice(problem((24, 24), (64, 64), **options), dtype, deterministic)
    assert text.startswith("warps: ")
    assert reason in text.split("rather than sm_90a: ")[1]


def test_additional_keys_and_large_dilations_run_the_hopper_kernel():
    assert choice(problem((24, 24), (64, 64), additional=3)).startswith("sm_90a: ")
    text = choice(problem((24, 24), (400, 400), dilation=12))
    assert text.startswith("sm_90a: ")
    assert "launches" in text.split("rather than")[0]


def test_sums_of_additional_keys_are_not_kept_for_any_number_of_dilation_groups():
    few, many = (problem((24, 24), (420, 420), additional=3, dilation=n) for n in (16, 17))
    assert choice(few, deterministic=True).startswith("sm_90a: ")
    text = choice(many, deterministic=True)
    assert text.startswith("warps: ")
    assert "there are additional keys, and too many dilation groups" in text


def test_features_between_compiled_ones_take_an_axis():
    volume = (24, 24, 24)
    assert choice(problem((12, 12, 12), volume, 40)).startswith("sm_90a: ")
    assert choice(problem((12, 12, 12), volume, 64, batch=2)).startswith("sm_90a: ")
    text = choice(problem((12, 12, 12), volume, 40, batch=2))
    assert text.startswith("warps: ")
    assert "a head_dim that is not compiled needs a batch or an axis of one" in text


def test_the_workspace_holds_the_sums_of_what_the_hopper_kernel_may_run():
    of = problem((24, 24), (64, 64))
    rows = 64 * 64 * 4
    sums = rows * (128 + 2) * 4  # and two statistics, in float32
    # Boxes of keys, at most one for each place of an axis, with what each place is seen by.
    boxes = sum(4 * (20 * length + 2 * (length + 127)) for length in (1, 64, 64))
    assert sums + boxes <= workspace(of) <= sums + boxes + 2048
    more = workspace(problem((24, 24), (64, 64), additional=10)) - workspace(of)
    assert 0 <= more - 2 * 10 * 2 * 128 * 4 < 256  # sums of two gradients, of two key heads
    # Without sums in memory, each of 16 parts of the queries has its own, and of dilation groups.
    for dilation, parts in ((1, 16), (3, 16), (5, 25)):
        without = workspace(problem((12, 12), (64, 64), dilation=dilation), deterministic=True)
        several = problem((12, 12), (64, 64), additional=10, dilation=dilation)
        more = workspace(several, deterministic=True) - without
        assert 0 <= more - parts * 2 * 10 * 2 * 128 * 4 < 256
    for less in (workspace(of, deterministic=True), workspace(of, "float32")):
        assert rows * 4 <= less < sums / 10
