"""The process that runs FlexAttention, as seen from JAX."""

from __future__ import annotations

import json
import pathlib
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from benchmarks.gpu.inputs import in_jax
from benchmarks.gpu.shapes import Shape
from benchmarks.gpu.timing import input_sets
from benchmarks.gpu.variants import ours, window_of

COMPARED_TOKENS = 64
#: The largest difference that passes for the same function, rounded.
TOLERANCE = {"bfloat16": 0.05, "float16": 0.02, "float32": 0.02}


def positions(shape: Shape) -> np.ndarray:
    """Some tokens, the corners among them, in row-major order."""
    rng = np.random.default_rng(0)
    some = rng.choice(shape.tokens, min(COMPARED_TOKENS, shape.tokens), replace=False)
    some[:2] = 0, shape.tokens - 1
    return np.unique(some)


def request(shape: Shape, folder: str, rounds: int) -> dict[str, Any]:
    """What the process is told of a problem."""
    window = window_of(shape)
    bounds = [window.intervals(shape.spatial, axis) for axis in range(window.rank)]
    return {
        "name": shape.name,
        "batch": shape.batch,
        "spatial": shape.spatial,
        "heads": shape.heads,
        "head_dim": shape.head_dim,
        "dilation": shape.dilation,
        "dtype": shape.dtype,
        "tile": shape.flex_tile,
        "begin": [begin.tolist() for begin, _ in bounds],
        "end": [end.tolist() for _, end in bounds],
        "positions": positions(shape).tolist(),
        "sets": input_sets(4 * shape.tensor_bytes),
        "rounds": rounds,
        "folder": folder,
    }


def our_results(shape: Shape) -> dict[str, np.ndarray]:
    """Rows of our fused results on the same inputs: [batch, positions, heads, head_dim]."""
    full = (shape.batch, *shape.spatial, shape.heads, shape.head_dim)
    names = ("query", "key", "value", "cotangent")
    *given, cotangent = (in_jax(name, 0, full, shape.dtype) for name in names)
    at = positions(shape)

    @jax.jit
    def run(given, cotangent):
        out, transpose = jax.vjp(ours(shape, "fused"), *given)
        found = (out, *transpose(cotangent))
        flat = (shape.batch, shape.tokens, shape.heads, shape.head_dim)
        return [x.reshape(flat)[:, at].astype("float32") for x in found]

    found = zip(("out", "dq", "dk", "dv"), run(given, cotangent), strict=True)
    return {name: np.asarray(x) for name, x in found}


def difference(theirs: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> float:
    """The largest difference of any array, over the number itself and the root mean square of the
    array, both ours: what is large is also rounded more.
    """

    def relative(x: np.ndarray, y: np.ndarray) -> float:
        return float(np.max(np.abs(x - y) / (np.abs(y) + np.sqrt(np.mean(y**2)))))

    return max(relative(x, right[name]) for name, x in theirs.items())


class FlexProcess:
    """One process for all problems.

    Args:
      python: an interpreter that has PyTorch.
      options: for benchmarks.gpu.flex.
    """

    def __init__(self, python: str, options: Sequence[str] = ()):
        self._folder = tempfile.TemporaryDirectory()
        self._command = [python, "-m", "benchmarks.gpu.flex", *options]
        self._log = (pathlib.Path(self._folder.name) / "log").open("w")
        self._start()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self._answers: queue.Queue[str] = queue.Queue()

        def listen(process: Any = self._process, answers: Any = self._answers) -> None:
            for line in process.stdout:
                answers.put(line)
            answers.put("")

        threading.Thread(target=listen, daemon=True).start()

    def measure(self, shape: Shape, rounds: int, seconds: float) -> list[dict[str, Any]]:
        """Rows of a problem, compared with ours; or one with a reason. `seconds` is how long it may
        take.
        """
        asked = json.dumps(request(shape, self._folder.name, rounds))
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(asked + "\n")
            self._process.stdin.flush()
            line = self._answers.get(timeout=seconds)
        except (BrokenPipeError, queue.Empty) as error:
            self._process.kill()
            self._start()
            return [{"reason": f"no answer in {seconds:.0f} s ({type(error).__name__})"}]
        if not line:
            self._start()
            return [{"reason": "the process of PyTorch ended"}]
        answer = json.loads(line)
        if "error" in answer:
            return [{"reason": answer["error"]}]
        right = our_results(shape)
        for row in answer["rows"]:
            with np.load(row.pop("path")) as theirs:
                row["difference"] = round(difference(dict(theirs), right), 4)
            if not row["difference"] <= TOLERANCE[shape.dtype]:
                row["wrong"] = True
        return answer["rows"]

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()
        self._log.close()
        self._folder.cleanup()


def warm(python: str, shapes: Sequence[Shape], processes: int, seconds: float) -> None:
    """Fills PyTorch's caches of compiled kernels, by several processes at once."""
    with tempfile.TemporaryDirectory() as folder:
        running = []
        for first in range(min(processes, len(shapes))):
            lines = [json.dumps(request(s, folder, 1)) for s in shapes[first::processes]]
            process = subprocess.Popen(
                [python, "-m", "benchmarks.gpu.flex", "--warm"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            assert process.stdin is not None
            process.stdin.write("\n".join(lines) + "\n")
            process.stdin.close()
            running.append(process)
        for process in running:
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                print("compiling FlexAttention took too long", file=sys.stderr)
                process.kill()
