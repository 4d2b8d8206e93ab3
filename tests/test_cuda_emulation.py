"""The CUDA kernels' own source, run on a CPU by the emulation in cuda/emulation."""

import subprocess
import sys

import pytest
from emulation import build, compiler

pytestmark = [
    pytest.mark.xdist_group("emulation"),
    pytest.mark.skipif(sys.platform != "linux", reason="the emulation is written for Linux"),
    pytest.mark.skipif(compiler() is None, reason="there is no C++ compiler"),
]


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    return build(tmp_path_factory.mktemp("emulation"))


def run(*command):
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False, timeout=300
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, "\n".join(
        [line for line in lines if "FAILED" in line] + [done.stderr]
    )
    return lines


@pytest.mark.parametrize("name", ["ptx_test", "hopper_ptx_test", "hopper_mistakes_ptx_test"])
def test_emulated_instructions(programs, name):
    """Against examples worked out by hand, and with mistakes that the emulation has to find."""
    assert run(programs[name])[-1] == "0 failures"


@pytest.mark.parametrize("program", ["attention_test", "gemm_test"])
def test_features(programs, program):
    """Every feature, through the launching code, against the definition."""
    lines = run(programs[program])
    for kind in ("(bfloat16)", "(float16)", "(float32)", "(float32, highest)"):
        assert sum(kind in line for line in lines) >= 15


def test_order_of_warps_does_not_matter(programs):
    assert len(run(programs["attention_test"], "--orders")) > 8


def test_every_instance(programs):
    """Every compiled kernel, whether or not the planner prefers it for small problems."""
    assert len(run(programs["attention_test"], "--instances")) > 40


@pytest.mark.parametrize("program", ["attention_test", "gemm_test"])
def test_random_problems(programs, program):
    assert len(run(programs[program], "--random", 32, 0)) == 33


@pytest.mark.parametrize("program", ["naive_test", "unfused_test"])
def test_naive_kernels(programs, program):
    """Every feature in every element type, with rows of any alignment."""
    lines = run(programs[program])
    for kind in ("(bfloat16)", "(float16)", "(float32)", "(float64)"):
        assert sum(kind in line for line in lines) >= 30


def test_hopper_kernels(programs):
    lines = run(programs["hopper_test"])
    assert len(lines) > 30
    for features in (32, 64):  # with two CTAs on a multiprocessor
        assert any(f"{features} and {features} features, 2 CTAs" in line for line in lines)
    assert len(run(programs["hopper_test"], "--random", 32, 0)) > 20


def test_hopper_backward_kernels(programs):
    lines = run(programs["hopper_backward_test"])
    for which in ("sums", "a pair"):
        of_them = [line for line in lines if f" features, {which} (" in line]
        for head_dim in (32, 64, 96, 128, 192, 256, 40, 136):
            assert any(f", {head_dim} features, " in line for line in of_them)
        for feature in ("additional tokens", "a large dilation"):
            assert any(feature in line for line in of_them)
    assert len(lines) > 35


def test_hopper_backward_kernels_on_random_problems(programs):
    assert run(programs["hopper_backward_test"], "--random", 24, 0)[-1] == "0 failures"
