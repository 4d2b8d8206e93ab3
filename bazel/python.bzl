"""A repository made from one installed Python, its headers, and those of jaxlib and nanobind."""

_FIND = """
import importlib.util, sys, sysconfig

def package(name):
    spec = importlib.util.find_spec(name)
    if spec is None:
        sys.exit(sys.executable + " has no " + name + ": pip install jax==0.10.2 nanobind")
    return spec.submodule_search_locations[0]

headers = sysconfig.get_paths()["include"]
print(sys.executable, headers, package("jaxlib"), package("nanobind"), sep="\\n")
"""

_BUILD = """
load("@bazel_tools//tools/python:toolchain.bzl", "py_runtime_pair")

package(default_visibility = ["//visibility:public"])

cc_library(
    name = "python_headers",
    hdrs = glob(["python/**/*.h"]),
    includes = ["python"],
)

cc_library(
    name = "xla_ffi",
    hdrs = glob(["jaxlib/**/*.h"]),
    includes = ["jaxlib"],
)

cc_library(
    name = "nanobind",
    srcs = ["nanobind/src/nb_combined.cpp"],
    hdrs = glob(["nanobind/include/**/*.h"]),
    copts = ["-std=c++17", "-fvisibility=hidden", "-fno-strict-aliasing"],
    includes = ["nanobind/include", "nanobind/ext/robin_map/include"],
    textual_hdrs = glob([
        "nanobind/src/*.h",
        "nanobind/src/*.cpp",
        "nanobind/ext/robin_map/include/**/*.h",
    ]),
    deps = [":python_headers"],
)

py_runtime(
    name = "runtime",
    interpreter_path = "{interpreter}",
    python_version = "PY3",
)

py_runtime_pair(
    name = "runtime_pair",
    py3_runtime = ":runtime",
)

toolchain(
    name = "toolchain",
    toolchain = ":runtime_pair",
    toolchain_type = "@bazel_tools//tools/python:toolchain_type",
)
"""

def _python_repository(repository):
    name = repository.os.environ.get("JAX_NA_PYTHON", "python3")
    python = name if "/" in name else repository.which(name)
    if not python:
        fail("No {} on PATH; name one by --repo_env=JAX_NA_PYTHON=/path/to/python".format(name))
    found = repository.execute([python, "-c", _FIND])
    if found.return_code != 0:
        fail(found.stderr)
    interpreter, headers, jaxlib, nanobind = found.stdout.strip().split("\n")
    repository.symlink(headers, "python")
    repository.symlink(jaxlib + "/include", "jaxlib")
    for folder in ["ext", "include", "src"]:
        repository.symlink(nanobind + "/" + folder, "nanobind/" + folder)
    repository.file("BUILD", _BUILD.format(interpreter = interpreter))

python_repository = repository_rule(
    implementation = _python_repository,
    environ = ["JAX_NA_PYTHON", "PATH"],
    doc = "Headers and toolchain of the Python named by JAX_NA_PYTHON (default: python3 on PATH).",
)
