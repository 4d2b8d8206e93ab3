"""Peak memory of one call beyond its inputs and outputs: `benchmarks.cpu.memory INDEX PASS`.

A fresh process each, since a process rarely gives memory back. Linux only: the high-water mark of
the resident set is reset before the call.
"""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

from benchmarks.cpu.problems import HEADS, PROBLEMS, QUICK

MIB = 2**20


def _status(field: str) -> int:
    """Bytes, from /proc/self/status."""
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return 1024 * int(line.split()[1])
    raise OSError(f"/proc/self/status has no {field}")


def extra_memory(index: int, which: str, quick: bool) -> dict[str, float]:
    """Runs one pass of a problem in a process of its own."""
    found = subprocess.run(
        [sys.executable, "-m", "benchmarks.cpu.memory", str(index), which, str(int(quick))],
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(found.stdout)


def main() -> None:
    import jax
    import jax.numpy as jnp
    import numpy as np

    import jax_na

    index, which, quick = int(sys.argv[1]), sys.argv[2], bool(int(sys.argv[3]))
    problem = (QUICK if quick else PROBLEMS)[index]

    def attend(q, k, v):
        return jax_na.neighborhood_attention(q, k, v, problem.window, implementation="fused")

    def loss(q, k, v):
        return jnp.sum(attend(q, k, v))

    call = jax.jit(attend if which == "forward" else jax.grad(loss, (0, 1, 2)))
    tiny = [jnp.ones((1, *problem.window, HEADS, problem.head_dim))] * 3
    jax.block_until_ready(call(*tiny))  # code, threads and their stacks
    rng = np.random.default_rng(0)
    shape = (1, *problem.spatial, HEADS, problem.head_dim)
    inputs = [jnp.asarray(rng.standard_normal(shape, np.float32)) for _ in range(3)]
    compiled = call.lower(*inputs).compile()
    jax.block_until_ready(inputs)
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # VmHWM := VmRSS
    before = _status("VmRSS")
    results = jax.block_until_ready(compiled(*inputs))
    peak = _status("VmHWM") - before
    outputs = sum(x.nbytes for x in jax.tree.leaves(results))
    report = {
        "inputs_mib": sum(x.nbytes for x in inputs) / MIB,
        "outputs_mib": outputs / MIB,
        "extra_mib": max(peak - outputs, 0) / MIB,
    }
    print(json.dumps({name: round(value, 1) for name, value in report.items()}))


if __name__ == "__main__":
    main()
