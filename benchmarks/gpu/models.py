"""Whole models: a training step and an inference, with each kind of attention.

    python -m benchmarks.gpu.models [--only NAT]

bfloat16, AdamW, everything in one jitted step. "dense" is JAX's attention of all tokens to all
tokens in the place of every neighborhood, by cuDNN; "materialized" the same by XLA alone.
"""

from __future__ import annotations

import concurrent.futures
import itertools
from typing import Any

import jax
import optax
from flax import nnx

from benchmarks.gpu.blocks import Task, make_dense, tasks
from benchmarks.gpu.device import prepare
from benchmarks.gpu.profile import is_attention, kernels
from benchmarks.gpu.record import Record, arguments
from benchmarks.gpu.timing import LONG, Timed, in_turns, summary
from benchmarks.gpu.variants import Skipped, attempt

PASSES = ("training", "inference")


def _model(task: Task, name: str, on_gpu: bool) -> nnx.Module:
    if name in ("dense", "materialized"):
        by_cudnn = on_gpu and name == "dense"
        return make_dense(task.make(None), "cudnn" if by_cudnn else "xla")
    return task.make(name)


def _expect_memory(executable: Any) -> int:
    """Bytes at the peak, as compiled.

    Raises:
      Skipped: the device has not as many.
    """
    sizes = executable.memory_analysis()
    if sizes is None:
        return 0
    need = sizes.argument_size_in_bytes + sizes.temp_size_in_bytes
    need += sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    stats = jax.devices()[0].memory_stats()
    if stats and need > stats["bytes_limit"]:
        limit = stats["bytes_limit"] / 2**30
        raise Skipped(f"needs {need / 2**30:.1f} GiB of {limit:.1f}")
    return need


class Step:
    """A compiled pass of a model, with what it works on: `dispatch()` runs it once."""

    def __init__(self, task: Task, name: str, which: str, on_gpu: bool):
        graph, params = nnx.split(_model(task, name, on_gpu), nnx.Param)
        params = nnx.to_pure_dict(params)
        self.batch = task.batch()
        optimizer = optax.adamw(1e-4)

        def train(state: Any, *batch: jax.Array) -> Any:
            params, moments = state

            def loss(params: Any) -> jax.Array:
                return task.loss(nnx.merge(graph, nnx.State(params)), *batch)

            value, gradients = jax.value_and_grad(loss)(params)
            updates, moments = optimizer.update(gradients, moments, params)
            return (optax.apply_updates(params, updates), moments), value

        def infer(state: Any, *batch: jax.Array) -> Any:
            return state, task.infer(nnx.merge(graph, nnx.State(state[0])), *batch)

        self.state = (params, optimizer.init(params) if which == "training" else ())
        step = jax.jit(train if which == "training" else infer, donate_argnums=0)
        self._executable = step.lower(self.state, *self.batch).compile()
        self.memory = _expect_memory(self._executable)

    def dispatch(self) -> Any:
        """Starts a step, and returns its loss or its results."""
        self.state, result = self._executable(self.state, *self.batch)
        return result


def attention_share(step: Step) -> dict[str, Any]:
    """How much of the time of all kernels of a step is attention's; nothing without a profiler."""
    ran = kernels(step.dispatch)
    busy = sum(kernel.duration_us for kernel in ran)
    if not busy:
        return {}
    attending = sum(kernel.duration_us for kernel in ran if is_attention(kernel.name))
    return {
        "kernels": len(ran),
        "kernel_ms": round(busy / 1e3, 3),
        "attention_ms": round(attending / 1e3, 3),
        "attention_share": round(attending / busy, 4),
    }


def _row(
    task: Task, made: concurrent.futures.Future[Step], rounds: int, name: str
) -> dict[str, Any]:
    """What is found of a kind of attention."""
    step = None

    def build() -> Timed:
        nonlocal step
        step = made.result()
        return Timed(step.dispatch)

    timed = attempt(build)
    if isinstance(timed, str) or step is None:
        return {"ms": None, "reason": timed}
    found = summary(in_turns({name: timed}, rounds, 0.2)[name])
    found |= {"per_second": round(1e3 * task.count / found["ms"], 1)}
    found |= {"gib": round(step.memory / 2**30, 3)}
    return found if timed.first > LONG else found | attention_share(step)


def measure(record: Record, task: Task, names: list[str], rounds: int, on_gpu: bool) -> None:
    """Adds a row for each pass and kind of attention; all but the first are compiled at a time."""
    made: dict[tuple[str, str], concurrent.futures.Future[Step]] = {}
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for which, name in itertools.product(PASSES, names):
            first = not made
            made[which, name] = pool.submit(Step, task, name, which, on_gpu)
            if first:  # what XLA finds out of convolutions and products serves all others
                concurrent.futures.wait(made.values())
    for which, name in list(made):
        row = _row(task, made.pop((which, name)), rounds, name)  # which frees its memory
        record.add(model=task.name, **{"pass": which}, unit=task.unit, variant=name, **row)


def main() -> None:
    parser = arguments("models", __doc__)
    parser.add_argument("--only", default="", help="a word in the names of models")
    parser.add_argument("--variants", default="", help="kinds of attention, with commas")
    options = parser.parse_args()
    on_gpu = prepare(command_buffers=True, memory_fraction=0.95) == "gpu"
    names = ["fused", "dense", "naive"] if on_gpu else ["fused", "xla", "dense"]
    if options.variants:
        names = options.variants.split(",")
    record = Record(
        "models", options.output, f"{options.only} {options.variants}", quick=options.quick
    )
    for task in tasks(options.quick):
        if options.only.lower() in task.name.lower():
            measure(record, task, names, options.rounds, on_gpu)


if __name__ == "__main__":
    main()
