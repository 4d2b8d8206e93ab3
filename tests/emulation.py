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
HOST_FLAGS = ("-O2", *FLAGS, *INCLUDES)
# Of dozens of kernels each runs for a moment: to optimise them takes longer than it saves.
KERNEL_FLAGS = (
    *("-O1", *FLAGS, *INCLUDES),
    *("-x", "c++", "-DJAX_NA_EMULATION", "-include", "cuda_runtime.h"),
)


@dataclasses.dataclass(frozen=True)
class Source:
    path: str  # from the root of the repository
    kernels: bool = False
    defines: tuple[str, ...] = ()

    def object_name(self) -> str:
        return "-".join((self.path.replace("/", "_"), *self.defines)) + ".o"

    def command(self) -> tuple[str, ...]:
        flags = KERNEL_FLAGS if self.kernels else HOST_FLAGS
        return (*flags, *(f"-D{define}" for define in self.defines), "-c", str(ROOT / self.path))


def of_elements(path: str) -> list[Source]:
    """Kernels that the build compiles once for each element type, from a table of instances."""
    tables = {"__nv_bfloat16": "16_BIT", "__half": "16_BIT", "float": "32_BIT"}
    return [
        Source(path, True, (f"JAX_NA_ELEMENT={element}", f"JAX_NA_TABLE={name}"))
        for element, name in tables.items()
    ]


#: The slowest first.
KERNELS = [
    *of_elements("cuda/key_gradient/instances.cu"),
    *of_elements("cuda/query_gradient/instances.cu"),
    *of_elements("cuda/forward/instances.cu"),
    *of_elements("cuda/gemm/inverse.cu"),
    *of_elements("cuda/gemm/combine.cu"),
    *of_elements("cuda/gemm/scores.cu"),
    Source("cuda/additional_gradient.cu", kernels=True),
    *(Source(f"cuda/gemm/{name}.cu", kernels=True) for name in ("softmax", "bias_gradient")),
    *(
        Source(f"cuda/naive/{name}.cu", kernels=True)
        for name in ("unfused", "key_gradient", "query_gradient", "forward", "sum_parts")
    ),
]
#: The code that chooses and launches kernels, as it is, and what all tests share.
HOSTS = [
    Source(f"cuda/{name}.cc")
    for name in (
        "dispatch",
        "fused",
        "gemm/gemm",
        "naive/naive",
        "plan",
        "emulation/tests/cases",
        "emulation/tests/reference",
    )
]
#: Programs of kernels, and programs of the emulation alone.
ATTENTION_TESTS = [
    Source(f"cuda/emulation/tests/{name}.cc")
    for name in ("attention_test", "gemm_test", "naive_test", "unfused_test")
]
OWN_TESTS = [
    Source(f"cuda/emulation/tests/{name}.cc", kernels=True)
    for name in ("ptx_test", "hopper_ptx_test")
]


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
    emulation = [Source(str(path.relative_to(ROOT))) for path in sorted(EMULATION.glob("*.cc"))]

    def objects(sources: list[Source]) -> list[pathlib.Path]:
        return [directory / source.object_name() for source in sources]

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        sources = [*KERNELS, *ATTENTION_TESTS, *OWN_TESTS, *HOSTS, *emulation]
        jobs = [
            pool.submit(_run, *source.command(), "-o", to)
            for source, to in zip(sources, objects(sources), strict=True)
        ]
        for job in jobs:
            job.result()
    programs = {}
    for tests, parts in ((ATTENTION_TESTS, [*KERNELS, *HOSTS, *emulation]), (OWN_TESTS, emulation)):
        for test in tests:
            program = directory / pathlib.Path(test.path).stem
            _run(*objects([test, *parts]), "-o", program)
            programs[program.name] = program
    return programs
