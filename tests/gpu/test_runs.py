"""Runs on a CUDA device: the same bits every time, captured as a graph, and large tensors."""

import dataclasses
import os
import pathlib
import re
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import IMPLEMENTATIONS, KINDS, arrays_of, runner
from problems import Problem

import jax_na

PLANE = Problem("2d", (40, 37), (7, 9), heads=4, kv_heads=2, batch=(2,), additional=5, bias=True)
VOLUME = Problem("3d", (9, 12, 14), (5, 5, 3), heads=2, kv_heads=2, batch=(3,), bias=True)
LINE = Problem("1d", (3000,), (200,), heads=4, kv_heads=1, stride=(3,), bias=True)
# Without a bias, and with windows that the Hopper kernels are made for.
WIDE = Problem("2d-wide", (60, 52), (24, 25), heads=6, kv_heads=3, batch=(2,))
MORE = Problem("2d-more", (60, 52), (24, 25), heads=6, kv_heads=3, additional=150)


def busy(stop):
    """Keeps the device busy with something else, so that CTAs come in another order each time."""
    x = jnp.ones((1500, 1500), jnp.bfloat16)
    while not stop.is_set():
        jax.block_until_ready(x @ x)


UNDER_LOAD = [  # by few processes, whose loads would make all others wait
    pytest.param(*found, marks=pytest.mark.xdist_group(f"under-load-{found[0]}"))
    for found in sorted({(kind.implementation, kind.dtype) for kind in KINDS})
]


@pytest.mark.parametrize(("implementation", "dtype"), UNDER_LOAD)
@pytest.mark.parametrize("problem", [PLANE, VOLUME, LINE, WIDE, MORE], ids=str)
def test_runs_agree_to_the_bit(problem, implementation, dtype):
    problem = dataclasses.replace(problem, head_dim=64, value_dim=64)
    given = arrays_of(problem, dtype)
    with jax.enable_x64(dtype == "float64"):
        out = jnp.ones((*given["query"].shape[:-1], 64), dtype)
        lse = jnp.ones(out.shape[:-1], jnp.promote_types(dtype, jnp.float32))
        run = runner(problem, implementation, None, deterministic=True)
        first = run(given, (out, lse))
        stop = threading.Event()
        other = threading.Thread(target=busy, args=(stop,))
        other.start()
        try:
            for _ in range(100 if implementation == "fused" else 20):
                for name, x in run(given, (out, lse)).items():
                    np.testing.assert_array_equal(
                        np.asarray(x, np.float64), np.asarray(first[name], np.float64), name
                    )
        finally:
            stop.set()
            other.join()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_vmap_and_scan(implementation):
    q = jax.random.normal(jax.random.key(0), (3, 2, 6, 7, 2, 32))

    def loss(q):
        return jnp.sum(jax_na.na2d(q, q, q, (3, 5), implementation=implementation) ** 2)

    mapped = jax.jit(jax.vmap(jax.grad(loss)))(q)
    _, scanned = jax.jit(lambda q: jax.lax.scan(lambda c, x: (c, jax.grad(loss)(x)), 0, q))(q)
    np.testing.assert_array_equal(mapped, scanned)


STEP = """
import sys
import jax, jax.numpy as jnp
import jax_na

def loss(weights, bias, x):
    for w in weights:
        y = x @ w
        more = y[:, 0, :3]
        x += jax_na.na2d(y, y, y, 5, implementation=sys.argv[1], relative_position_bias=bias,
                         additional_keys=more, additional_values=more)
    return jnp.sum(x.astype(jnp.float32) ** 2)

@jax.jit
def step(weights, bias, x):
    value, gradients = jax.value_and_grad(loss, (0, 1))(weights, bias, x)
    return value, jax.tree.map(lambda p, g: p - 1e-5 * g, (weights, bias), gradients)

weights = [0.3 * jnp.eye(32, dtype=jnp.bfloat16) for _ in range(4)]
x = jax.random.normal(jax.random.key(0), (2, 16, 16, 2, 32), jnp.bfloat16)
state = weights, jnp.zeros((2, 9, 9))
for _ in range(5):
    value, state = step(*state, x)
    print(float(value))
"""


def run_step(implementation, directory, *flags):
    """The losses of a few training steps, and XLA's list of what a step launches."""
    ended = subprocess.run(
        [sys.executable, "-c", STEP, implementation],
        env=os.environ
        | {
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            # Matrix products by what is fastest at the time would have other bits each time.
            "XLA_FLAGS": f"--xla_dump_to={directory} --xla_dump_hlo_as_text "
            + " ".join(("--xla_gpu_autotune_level=0", *flags)),
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        },
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    # There is a second list, "_after_thunk_passes", where a pass has changed the first.
    *_, path = sorted(pathlib.Path(directory).glob("*.jit_step.thunk_sequence*.txt"))
    return ended.stdout, path.read_text()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_training_step_is_captured(implementation, tmp_path):
    """All custom calls of a step are nodes of a CUDA graph, and it computes what the calls do."""
    captured, text = run_step(implementation, tmp_path / "with")
    calls = re.findall(r"^( *)\d+: kCustomCall\b", text, re.MULTILINE)
    graphs = re.findall(r"^( *)\d+: kCommandBuffer\b", text, re.MULTILINE)
    assert len(calls) == 8  # four layers, forward and backward
    assert graphs
    assert all(len(indent) > len(graphs[0]) for indent in calls)

    launched, text = run_step(
        implementation, tmp_path / "without", "--xla_gpu_enable_command_buffer="
    )
    assert "kCommandBuffer" not in text
    assert captured == launched


@pytest.mark.xdist_group("large tensors")
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_more_than_2_to_the_31_elements(implementation):
    """The last tokens of a large tensor, and their gradients, are those of a small one."""
    q = jax.random.normal(jax.random.key(0), (1, 4_300_000, 4, 128), jnp.bfloat16)
    assert q.size > 2**31

    @jax.jit
    def run(q):
        def attend(q):
            return jax_na.na1d(q, q, q, 9, boundary="clip", implementation=implementation)

        out, transpose = jax.vjp(attend, q)
        return out[:, -32:], transpose(out)[0][:, -32:]

    results = zip(run(q), run(q[:, -64:]), strict=True)
    (out, expected), gradients = ([np.asarray(x, np.float32) for x in pair] for pair in results)
    np.testing.assert_array_equal(out, expected)
    # The roundings of three gradients and of their sum.
    np.testing.assert_allclose(*gradients, rtol=2e-2, atol=2e-2)
