"""How JAX should treat the device while something is timed."""

from __future__ import annotations

import os
import subprocess

import jax


def prepare(
    *, command_buffers: bool = False, memory_fraction: float = 0.72, exact_memory: bool = False
) -> str:
    """Sets what JAX reads before it first looks for devices, and returns the platform.

    Args:
      command_buffers: whether XLA may make graphs of several calls, whose parts can run side by
        side.
      memory_fraction: how much of the device's memory JAX takes at most, bit by bit: PyTorch and
        the profiler want some too.
      exact_memory: whether to take each array from the driver and give it back, so that none is
        lost between arrays. It makes calls slow, and JAX no longer says how much memory there is.
    """
    if not command_buffers:
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_enable_command_buffer="
    if exact_memory:
        os.environ.setdefault("XLA_PYTHON_CLIENT_ALLOCATOR", "platform")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", str(memory_fraction))
    return jax.default_backend()


def free_bytes() -> int | None:
    """Memory of the first GPU that nobody uses; None where nvidia-smi does not say."""
    command = ["nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return 2**20 * int(found.stdout.split()[0])
