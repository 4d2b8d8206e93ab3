"""Builds the CUDA kernels for the emulation in cuda/emulation, which runs them on a CPU: a C++
compiler is all it takes.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import os
import pathlib
import shutil
import subprocess

ROOT = pathlib.Path(__file__).parents[1]
EMULATION = ROOT / "cuda" / "emulation"

FLAGS = ("-std=c++17", "-Wno-unknown-pragmas", "-Wno-psabi")
# The emulation's headers come first: it has its own of CUDA's and of cuda/ptx.
INCLUDES = (f"-I{EMULATION / 'include'}", f"-I{ROOT}")
HOST_FLAGS = ("-O1", *FLAGS, *INCLUDES)
# Of dozens of kernels each runs for a moment, most of it in the emulation: -Og compiles them in 5/8
# of the time that -O1 takes, and they run a twentieth longer.
KERNEL_FLAGS = (
    *("-Og", *FLAGS, *INCLUDES),
    *("-x", "c++", "-DJAX_NA_EMULATION", "-include", "cuda_runtime.h"),
)


@dataclasses.dataclass(frozen=True)
class Source:
    path: str  # from the root of the repository
    kernels: bool = False
    defines: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    def object_name(self) -> str:
        return "-".join((self.path.replace("/", "_"), *self.defines)) + ".o"

    def command(self) -> tuple[str, ...]:
        flags = KERNEL_FLAGS if self.kernels else HOST_FLAGS
        defines = (f"-D{define}" for define in self.defines)
        return (*flags, *self.options, *defines, "-c", str(ROOT / self.path))


#: Element types, with the table of instances that each has.
ELEMENTS = {"__nv_bfloat16": "16_BIT", "__half": "16_BIT", "float": "32_BIT"}


def _kernels() -> list[Source]:
    """Every .cu file, those with instances for an element type once for each."""
    found = []
    for path in sorted((ROOT / "cuda").rglob("*.cu")):
        name = str(path.relative_to(ROOT))
        if "JAX_NA_ELEMENT" not in path.read_text():
            found.append(Source(name, kernels=True))
            continue
        for element, table in ELEMENTS.items():
            if not ("hopper" in path.parts and element == "float"):
                defines = (f"JAX_NA_ELEMENT={element}", f"JAX_NA_TABLE={table}")
                found.append(Source(name, kernels=True, defines=defines))
    return found


def _hosts() -> list[Source]:
    """The code that chooses and launches kernels, as it is; all but what speaks to XLA."""
    paths = (
        path
        for path in sorted((ROOT / "cuda").rglob("*.cc"))
        if EMULATION not in path.parents and path.name != "handlers.cc"
    )
    return [Source(str(path.relative_to(ROOT))) for path in paths]


def compiler() -> str | None:
    """The C++ compiler of this system, or None."""
    names = (os.environ.get("CXX"), "c++", "g++", "clang++")
    return next((found for name in names if name and (found := shutil.which(name))), None)


def _run(*command: object) -> None:
    line = [str(word) for word in (compiler(), *command)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(line)}\n{done.stderr}")


def build(directory: pathlib.Path) -> dict[str, pathlib.Path]:
    """Compiles every test program into `directory`, with all cores; returns them by name."""
    emulation = [
        Source(str(path.relative_to(ROOT)), options=("-O3",))
        for path in sorted(EMULATION.glob("*.cc"))
    ]
    attention_tests, own_tests, shared = [], [], []
    for path in sorted((EMULATION / "tests").glob("*.cc")):
        name = str(path.relative_to(ROOT))
        if path.stem.endswith("ptx_test"):  # of the emulation alone, with kernels of its own
            own_tests.append(Source(name, kernels=True))
        elif path.stem != "on_gpu":
            (attention_tests if path.stem.endswith("_test") else shared).append(Source(name))
    under_test = [*_kernels(), *_hosts(), *shared, *emulation]

    def objects(sources: list[Source]) -> list[pathlib.Path]:
        return [directory / source.object_name() for source in sources]

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        sources = [*attention_tests, *own_tests, *under_test]
        jobs = [
            pool.submit(_run, *source.command(), "-o", to)
            for source, to in zip(sources, objects(sources), strict=True)
        ]
        for job in jobs:
            job.result()
    programs = {}
    for tests, parts in ((attention_tests, under_test), (own_tests, emulation)):
        for test in tests:
            program = directory / pathlib.Path(test.path).stem
            _run(*objects([test, *parts]), "-o", program)
            programs[program.name] = program
    return programs
