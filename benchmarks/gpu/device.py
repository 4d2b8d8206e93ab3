"""How JAX should treat the device while something is timed."""

from __future__ import annotations

import os

import jax


def prepare(*, command_buffers: bool = False, memory_fraction: float = 0.72) -> str:
    """Sets what JAX reads before it first looks for devices, and returns the platform.

    Args:
      command_buffers: whether XLA may make graphs of several calls, whose parts can run side by
        side.
      memory_fraction: how much of the device's memory JAX takes at most, bit by bit: PyTorch and
        the profiler want some too.
    """
    if not command_buffers:
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_enable_command_buffer="
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", str(memory_fraction))
    return jax.default_backend()
