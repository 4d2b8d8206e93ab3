"""Custom calls with arguments drawn and spoilt at random: each has to end with an error or the
right result, never in a crash.

Run as a program, this file makes many calls in one process and prints how they ended:
``call_fuzzer.py PLATFORM IMPLEMENTATION SEED CASES``.
"""

from __future__ import annotations

import collections
import faulthandler
import json
import os
import random
import re
import subprocess
import sys

import jax
import numpy as np
from raw_arguments import ARRAYS, BACKWARD, FORWARD, LONGEST, Call, legal, valid_call
from raw_calls import Kernels
from specification import Specification

HUGE = (-(2**63), -(2**31), -1, 0, LONGEST, LONGEST + 1, 2**31 - 1, 2**31, 2**32 + 3, 2**63 - 1)
DTYPES = (
    *("float64", "bfloat16", "float16", "int8", "int32", "int64", "bool", "complex64"),
    "float8_e4m3fn",
)
SECONDS = 180  # that a run of the program may take


def other_shape(shape: tuple[int, ...], rng: random.Random) -> tuple[int, ...]:
    """A shape near the given one: an axis more, less, longer, shorter or empty, or two swapped."""
    dims, at = list(shape), rng.randrange(len(shape))
    match rng.randrange(6):
        case 0:
            dims.insert(at, rng.choice((1, 2)))
        case 1:
            dims.pop(at)
        case 2:
            dims[at] += rng.choice((1, 5))
        case 3:
            dims[at] = max(dims[at] - 1, 0)
        case 4:
            dims[at] = 0
        case 5:
            dims[at], dims[at - 1] = dims[at - 1], dims[at]
    return tuple(dims)


def resized(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return np.resize(array, shape) if array.size else np.ones(shape, array.dtype)


def mutate(call: Call, rng: random.Random) -> None:
    """Changes one thing of a call, nearly always for the worse."""
    x, a = call.inputs, call.attributes
    name, attribute = rng.choice(list(x)), rng.choice(ARRAYS)
    result = rng.randrange(len(call.results)) if call.results else 0
    shape, dtype = call.results[result] if call.results else ((), None)
    match rng.choices(range(13), (5, 3, 3, 3, 8, 2, 2, 2, 1, 1, 6, 1, 2))[0]:
        case 0:
            x[name] = resized(x[name], other_shape(x[name].shape, rng))
        case 1:
            x[name] = x[name].astype(jax.numpy.dtype(rng.choice(DTYPES)))
        case 2:
            call.results[result] = (other_shape(shape, rng), dtype) if shape else ((1,), dtype)
        case 3:
            call.results[result] = (shape, np.dtype(jax.numpy.dtype(rng.choice(DTYPES))))
        case 4:
            values, at = a.get(attribute), rng.randrange(3)
            if isinstance(values, np.ndarray) and values.shape == (3,):
                near = int(values[at]) + rng.choice((-2, -1, 1, 2))
                a[attribute] = np.array(values, np.int64)
                a[attribute][at] = rng.choice((near, near, rng.choice(HUGE)))
        case 5:
            a[attribute] = rng.choice(
                (np.zeros(0, np.int64), np.ones(2, np.int64), np.ones(4, np.int64), np.int64(1))
            )
        case 6:
            a[attribute] = rng.choice(
                (np.ones(3, np.int32), np.ones(3, np.float64), "one", True, 1.5, np.float32(2))
            )
        case 7:
            a.pop(attribute, None)
        case 8:
            a["scale"] = rng.choice((np.float32(1), np.int64(1), "one", np.ones(3), True))
        case 9:
            a["surprise"] = np.int64(1)
        case 10:
            origins = np.array(x.get("origins", 0), np.int32)
            wild = (-(2**31), 2**31 - 1, -1, 1, 3, 2**30, rng.randint(-9, 9))
            if origins.size:
                origins.flat[rng.randrange(origins.size)] = rng.choice(wild)
            x["origins"] = origins
        case 11:
            match rng.randrange(4):
                case 0:
                    del x[name]
                case 1:
                    x["surprise"] = np.zeros(3, np.float32)
                case 2:
                    call.results = call.results[:-1]
                case 3:
                    call.results.append(call.results[result])
        case 12:
            for option in [name for name in a if name not in (*ARRAYS, "scale")]:
                a[option] = rng.choice(
                    (np.int64(rng.choice(HUGE)), np.zeros(2, np.int64), np.int32(1), "one", 0.5)
                )


# What an error says: one of the names in the binding, or, before the handler sees the call, XLA.
OURS = re.compile(r"jax_na: .*\b(" + "|".join({
    *ARRAYS, *BACKWARD["inputs"], *FORWARD["results"], *BACKWARD["results"],
    "queries", "keys", "attribute", "heads", "head", "plan", "workspace", "kernels",
}) + r")\b", re.S)  # fmt: skip
XLAS = re.compile(
    r"Failed to decode all FFI handler operands|[Ww]rong number of (arguments|results|attributes)"
)


def check_result(call: Call, found: list[np.ndarray]) -> None:
    expected = Specification(call.geometry(), *call.inputs.values())
    values = [expected.out, expected.lse]
    if call.kind == "backward":
        values = expected.gradients(call.inputs["dout"], call.inputs["dlse"])
    dtype, kernels = call.inputs["query"].dtype.name, call.kernels
    tolerance = {"float64": 1e-10, "float32": 2e-5}.get(dtype, 0.1)
    if kernels.on_tensor_cores and dtype == "float32":  # scores are larger here than elsewhere
        tolerance = 0.1 if call.attributes["precision"] == 0 else 4 * kernels.tolerance
    for ours, theirs in zip(found, values, strict=False):  # a workspace comes last
        largest = np.abs(theirs, where=np.isfinite(theirs), out=np.zeros_like(theirs))
        near = tolerance * max(1.0, largest.max(initial=0))
        np.testing.assert_allclose(ours.astype(np.float64), theirs, rtol=tolerance, atol=near)


def fuzz(kernels: Kernels, seed: int, cases: int) -> collections.Counter[str]:
    """Makes `cases` calls and counts how they ended; raises at the first that ended wrongly."""
    counts: collections.Counter[str] = collections.Counter()
    for case in range(cases):
        rng = random.Random(f"{seed}/{case}")
        call = valid_call(kernels, rng.choice(("forward", "backward")), rng)
        for _ in range(rng.choice((0, 1, 1, 1, 1, 2, 4)) if case else 0):
            mutate(call, rng)
        allowed = legal(call)
        if allowed and call.kind == "backward":
            call.fill_rows(np.random.default_rng(case))
        label = f"case {seed}/{case}, {call.kind}: {call.attributes}, {call.results}, " + str(
            {name: (x.shape, x.dtype.name) for name, x in call.inputs.items()}
            | {"origins": call.inputs.get("origins")}
        )
        print(label, file=sys.stderr)
        try:
            found = call.run()
        except Exception as error:
            message = str(error)
            assert not allowed, f"refused a legal call: {message}\n{label}"
            assert OURS.search(message) or XLAS.search(message), f"{message!r}\n{label}"
            counts["refused by us" if OURS.search(message) else "refused by XLA"] += 1
        else:
            if allowed:
                check_result(call, found)
                counts["computed"] += 1
            elif kernels.platform != "cpu" and legal(call, in_memory=False):
                counts["computed without a meaning"] += 1
            else:  # nothing to compute but scratch space: dropped by XLA, or not looked at by us
                results = [x for x in found if x.dtype != np.uint8]
                assert not any(x.size for x in results), f"computed an illegal call\n{label}"
                counts["nothing to compute"] += 1
    return counts


def run_program(kernels: Kernels, seed: int, cases: int) -> collections.Counter[str]:
    """`fuzz` in a process of its own, which may crash."""
    path = [os.path.dirname(os.path.abspath(__file__)), *sys.path]
    arguments = (kernels.platform, kernels.implementation, seed, cases)
    ended = subprocess.run(
        [sys.executable, __file__, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path)},
        capture_output=True,
        text=True,
        timeout=SECONDS + 20,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-6000:]
    return collections.Counter(json.loads(ended.stdout))


if __name__ == "__main__":
    faulthandler.enable()
    faulthandler.dump_traceback_later(SECONDS, exit=True)
    jax.config.update("jax_enable_x64", True)
    under_test, (seed, cases) = Kernels(*sys.argv[1:3]), map(int, sys.argv[3:5])
    print(json.dumps(fuzz(under_test, seed, cases)))
