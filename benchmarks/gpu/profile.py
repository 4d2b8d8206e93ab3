"""Kernels that ran, and how long, by the profiler that comes with JAX."""

from __future__ import annotations

import pathlib
import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple

import jax


class Kernel(NamedTuple):
    """One run of a kernel on the device."""

    name: str
    start_us: float
    duration_us: float


def kernels(dispatch: Callable[[], Any]) -> list[Kernel]:
    """What ran on the first GPU from the call of `dispatch` until its results were there, in order;
    nothing where there is no GPU.
    """
    jax.block_until_ready(dispatch())
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    options.host_tracer_level = 0
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            jax.block_until_ready(dispatch())
        found: list[Kernel] = []
        for file in pathlib.Path(folder).rglob("*.xplane.pb"):
            for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
                if not plane.name.startswith("/device:GPU:0"):
                    continue
                for line in plane.lines:
                    if "Stream" not in line.name:  # summaries of the same kernels
                        continue
                    found += [
                        Kernel(event.name, event.start_ns / 1e3, event.duration_ns / 1e3)
                        for event in line.events
                    ]
    return sorted(found, key=lambda kernel: kernel.start_us)


def is_attention(name: str) -> bool:
    """Whether a kernel is of attention: ours, or of cuDNN or another library that has fused it."""
    lowered = name.lower()
    return any(word in lowered for word in ("jax_na", "flash", "fmha", "sdpa", "attention"))
