"""Runs every CUDA kernel under compute-sanitizer: ``python tests/gpu/sanitize.py BUILD``.

BUILD holds the programs that docs/emulation.md describes, built for a GPU
(``-C cmake.define.JAX_NA_CUDA_TESTS=ON``). They launch every kernel on small problems and compare
with the definition. Prints each tool's summary; ends with 1 where a tool or a program finds an
error. With ``--tools none`` the programs run by themselves: CUDA_FORCE_PTX_JIT=1 in the environment
then has the driver compile every kernel that is not of one architecture alone from its PTX.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import os
import pathlib
import subprocess
import sys
import time

TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
PROGRAMS = (
    ("attention_test", "--instances"),
    ("attention_test",),
    ("gemm_test",),
    ("naive_test",),
    ("unfused_test",),
    ("hopper_test",),
    ("hopper_backward_test",),
)


def run(build: pathlib.Path, tool: str, program: tuple[str, ...], limit: float) -> tuple[bool, str]:
    """Whether nothing was found, and a line that says what ran."""
    prefix = [] if tool == "none" else ["compute-sanitizer", "--tool", tool, "--print-limit", "5"]
    began = time.monotonic()
    try:
        done = subprocess.run(
            [*prefix, str(build / program[0]), *program[1:]],
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False, f"{tool:9} {' '.join(program):28} took longer than {limit:.0f} s"
    lines = (done.stdout + done.stderr).splitlines()
    summaries = [line.strip("= ") for line in lines if "SUMMARY" in line]
    results = [line for line in lines if line.endswith(" failures")]
    telling = [line for line in lines if "FAILED" in line or line.startswith("=====")]
    clean = (
        done.returncode == 0
        and results == ["0 failures"]
        and (tool == "none" or (len(summaries) == 1 and "0 errors" in summaries[0]))
    )
    report = f"{tool:9} {' '.join(program):28} {time.monotonic() - began:4.0f} s  "
    report += ", ".join((*results, *summaries)) or "no summary"
    if not clean:
        report += "\n" + "\n".join(f"    {line}" for line in (telling or lines)[:40])
    return clean, report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("build", type=pathlib.Path)
    parser.add_argument("--tools", nargs="+", choices=(*TOOLS, "none"), default=TOOLS)
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 1) // 2))
    parser.add_argument("--limit", type=float, default=600, help="seconds for each run")
    parser.add_argument("--programs", nargs="+", default=[p[0] for p in PROGRAMS])
    given = parser.parse_args()
    programs = tuple(p for p in PROGRAMS if p[0] in given.programs)
    if os.environ.get("CUDA_FORCE_PTX_JIT") == "1":
        # There is no PTX of the Hopper kernels, and the fused forward pass chooses among them.
        needs_hopper = (("attention_test",), ("hopper_test",), ("hopper_backward_test",))
        programs = tuple(p for p in programs if p not in needs_hopper)
    with concurrent.futures.ThreadPoolExecutor(given.jobs) as pool:
        runs = [
            pool.submit(run, given.build, tool, program, given.limit)
            for tool in given.tools
            for program in programs
        ]
        for one in runs:
            print(one.result()[1], flush=True)
    return 0 if all(one.result()[0] for one in runs) else 1


if __name__ == "__main__":
    sys.exit(main())
