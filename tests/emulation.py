"""Builds the CUDA kernels for the emulation in cuda/emulation, which runs them on a CPU: a C++
compiler is all it takes.
"""

from __future__ import annotations

import concurrent.futures
import os
import pathlib
import shutil
import subprocess

ROOT = pathlib.Path(__file__).parents[1]
EMULATION = ROOT / "cuda" / "emulation"

#: (element, table in cuda/instances.h) of the fused kernels.
ELEMENTS = (("__nv_bfloat16", "16_BIT"), ("__half", "16_BIT"), ("float", "32_BIT"))
PASSES = ("forward", "query_gradient", "key_gradient")
#: The code that chooses and launches kernels, as it is.
HOST_SOURCES = ("cuda/dispatch.cc", "cuda/fused.cc", "cuda/plan.cc")

FLAGS = ("-std=c++17", "-Wno-unknown-pragmas", "-Wno-psabi")
# The emulation's headers come first: it has its own of CUDA's and of cuda/ptx.
INCLUDES = (f"-I{EMULATION / 'include'}", f"-I{ROOT}")
HOST_FLAGS = (*FLAGS, "-O2", *INCLUDES)
# Of dozens of kernels each runs for a moment: to optimise them takes longer than it saves.
KERNEL_FLAGS = (
    *(*FLAGS, "-O1", *INCLUDES),
    *("-x", "c++", "-DJAX_NA_EMULATION", "-include", "cuda_runtime.h"),
)


def compiler() -> str | None:
    """The C++ compiler of this system, or None."""
    names = (os.environ.get("CXX"), "c++", "g++", "clang++")
    return next((found for name in names if name and (found := shutil.which(name))), None)


class Build:
    """Objects and programs, in a directory of their own."""

    def __init__(self, directory: pathlib.Path):
        self.directory = directory

    def _run(self, *command: object) -> None:
        line = [str(word) for word in (compiler(), *command)]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(line)}\n{done.stderr}")

    def _objects(self, sources: list[tuple[str, tuple[str, ...]]]) -> list[pathlib.Path]:
        """Compiles every (file, flags), as many at a time as there are cores."""
        objects = [
            self.directory / f"{i}_{source.replace('/', '_')}.o"
            for i, (source, _) in enumerate(sources)
        ]
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            jobs = [
                pool.submit(self._run, *flags, "-c", ROOT / source, "-o", to)
                for (source, flags), to in zip(sources, objects, strict=True)
            ]
            for job in jobs:
                job.result()
        return objects

    def programs(self) -> dict[str, pathlib.Path]:
        """Compiles attention_test and the tests of the emulation itself."""
        kernels = [("cuda/additional_gradient.cu", KERNEL_FLAGS)]
        for name in PASSES:
            for element, table in ELEMENTS:
                defines = (f"-DJAX_NA_ELEMENT={element}", f"-DJAX_NA_TABLE={table}")
                kernels.append((f"cuda/{name}/instances.cu", (*KERNEL_FLAGS, *defines)))
        tests = [f"cuda/emulation/tests/{name}.cc" for name in ("attention_test", "cases")]
        tests.append("cuda/emulation/tests/reference.cc")
        hosts = [(source, HOST_FLAGS) for source in (*tests, *HOST_SOURCES)]
        emulation = [
            (str(path.relative_to(ROOT)), HOST_FLAGS) for path in sorted(EMULATION.glob("*.cc"))
        ]
        own = {name: f"cuda/emulation/tests/{name}.cc" for name in ("ptx_test", "hopper_ptx_test")}

        # The slowest first.
        sources = [*kernels, *hosts, *((source, KERNEL_FLAGS) for source in own.values())]
        objects = self._objects([*sources, *emulation])
        shared = objects[len(sources) :]
        attention = len(kernels) + len(hosts)
        parts = {"attention_test": objects[:attention]}
        for name, compiled in zip(own, objects[attention : len(sources)], strict=True):
            parts[name] = [compiled]
        for name, compiled in parts.items():
            self._run(*compiled, *shared, "-o", self.directory / name)
        return {name: self.directory / name for name in parts}
