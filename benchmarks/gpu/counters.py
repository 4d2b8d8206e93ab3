"""What the hardware's counters say of one forward pass: ncu drives a process that runs it once.

    python -m benchmarks.gpu.counters [--only weather] [--ncu PATH]

The processes that are looked at are this module again (--target jax, torch): each variant runs
between cuProfilerStart and cuProfilerStop, after a marker, a kernel that computes sines.
"""

from __future__ import annotations

import csv
import ctypes
import io
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
from typing import Any

from benchmarks.gpu.shapes import Shape, chosen

#: By the name in the report. ncu sums over the device, or says a share in percent.
METRICS = {
    "us": "gpu__time_duration.sum",
    "dram_read": "dram__bytes_read.sum",
    "dram_written": "dram__bytes_write.sum",
    "l2_bytes": "lts__t_bytes.sum",
    "l1_bytes": "l1tex__t_bytes.sum",
    "dram_share": "dram__throughput.avg.pct_of_peak_sustained_elapsed",
    "l2_share": "lts__throughput.avg.pct_of_peak_sustained_elapsed",
    "l1_share": "l1tex__throughput.avg.pct_of_peak_sustained_active",
    "tensor_share": "sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_active",
    "sm_share": "sm__throughput.avg.pct_of_peak_sustained_elapsed",
    "occupancy": "sm__warps_active.avg.pct_of_peak_sustained_active",
}
SUMS = ("us", "dram_read", "dram_written", "l2_bytes", "l1_bytes")
DEFAULT = "nat-tiny-stage1,weather,volume-48,sequence-32k"
MARKER = "sin"
_UNITS = {"ns": 1e-3, "nsecond": 1e-3, "us": 1.0, "usecond": 1.0, "ms": 1e3, "msecond": 1e3}
_UNITS |= {"s": 1e6, "second": 1e6, "byte": 1, "Kbyte": 1e3, "Mbyte": 1e6, "Gbyte": 1e9, "%": 1}


def known_metrics(ncu: str) -> dict[str, str]:
    """Those of METRICS that this ncu has for this GPU."""
    found = subprocess.run([ncu, "--query-metrics"], capture_output=True, text=True, check=False)
    names = {line.split()[0] for line in found.stdout.splitlines() if line.strip()}
    return {name: full for name, full in METRICS.items() if full.split(".")[0] in names}


def parse(text: str, metrics: dict[str, str]) -> list[list[dict[str, Any]]]:
    """Kernels of every variant, from ncu's CSV: name and metrics; a marker begins a variant.

    Bytes, microseconds and percent.
    """
    lines = text.splitlines()
    header = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), None)
    if header is None:
        raise ValueError(f"ncu wrote no table: {text[-300:]}")
    names = {full: name for name, full in metrics.items()}
    kernels: dict[str, dict[str, Any]] = {}
    for row in csv.DictReader(io.StringIO("\n".join(lines[header:]))):
        kernel = kernels.setdefault(row["ID"], {"name": row["Kernel Name"]})
        name = names.get(row["Metric Name"])
        value = row["Metric Value"].replace(",", "")
        if name is not None and value not in ("", "n/a"):
            kernel[name] = float(value) * _UNITS[row["Metric Unit"]]
    variants: list[list[dict[str, Any]]] = []
    for kernel in kernels.values():
        if MARKER in kernel["name"].lower():
            variants.append([])
        elif variants:
            variants[-1].append(kernel)
    return variants


def total(kernels: list[dict[str, Any]]) -> dict[str, Any]:
    """Of a pass of several kernels: sums, and shares as means over their time."""
    found: dict[str, Any] = {"kernels": [kernel["name"][:100] for kernel in kernels]}
    time = sum(kernel.get("us", 0.0) for kernel in kernels)
    for name in METRICS:
        having = [kernel for kernel in kernels if name in kernel]
        if not having:
            continue
        if name in SUMS:
            found[name] = round(sum(kernel[name] for kernel in having), 3)
        elif time:
            found[name] = round(sum(k[name] * k.get("us", 0.0) for k in having) / time, 2)
    return found


def profiled(
    command: list[str], ncu: str, metrics: dict[str, str], seconds: float
) -> list[dict[str, Any]]:
    """A row for each variant that `command` says it runs; or one row that says what went wrong."""
    options = ["--csv", "--profile-from-start", "off", "--target-processes", "all"]
    options += ["--clock-control", "none", "--print-units", "base"]
    options += ["--metrics", ",".join(metrics.values())]
    with subprocess.Popen(
        [ncu, *options, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            out, errors = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.terminate()  # ncu then writes what it has
            out, errors = process.communicate()
    ran = [line.split()[1:] for line in out.splitlines() if line.startswith("ran ")]
    try:
        variants = parse(out, metrics)
    except ValueError as error:
        return [{"reason": f"{error} {errors[-300:]}"}]
    return [
        {"problem": problem, "variant": variant, **total(kernels)}
        for (problem, variant), kernels in zip(ran, variants, strict=False)
    ]


def _profiler(start: bool) -> None:
    driver = ctypes.CDLL("libcuda.so.1")
    (driver.cuProfilerStart if start else driver.cuProfilerStop)()


def run_in_jax(shape: Shape, names: list[str]) -> None:
    """Runs each variant once for the profiler."""
    import jax
    import jax.numpy as jnp

    from benchmarks.gpu.variants import attempt, forward, make_sets, variants

    sets = make_sets(shape)[:1]
    marker = jax.jit(jnp.sin)
    x = jax.block_until_ready(marker(jnp.ones((1024,))))
    for name, function in variants(shape).items():
        if name not in names:
            continue
        one = attempt(lambda function=function: forward(function, sets))
        if isinstance(one, str):
            print(f"{shape.name} {name}: {one}", file=sys.stderr)
            continue
        print(f"ran {shape.name} {name}", flush=True)
        _profiler(True)
        jax.block_until_ready(marker(x))
        jax.block_until_ready(one.dispatch())
        _profiler(False)


def run_in_torch(asked: dict[str, Any]) -> None:
    """Runs compiled FlexAttention once in either order for the profiler."""
    import numpy as np
    import torch
    from torch.nn.attention.flex_attention import flex_attention

    from benchmarks.gpu.flex import ORDERS, make_order
    from benchmarks.gpu.inputs import in_torch

    attend = torch.compile(flex_attention, dynamic=False)
    full = (asked["batch"], int(np.prod(asked["spatial"])), asked["heads"], asked["head_dim"])
    marker = torch.ones(1024, device="cuda")
    for name in ORDERS:
        torch._dynamo.reset()
        order = make_order(asked, asked["tile"] if name == "tiled" else None, "cuda")
        given = (in_torch(n, 0, full, asked["dtype"], "cuda") for n in ("query", "key", "value"))
        # With gradients, as when the caches of compiled kernels are filled.
        q, k, v = (x[:, order.source].transpose(1, 2).contiguous().requires_grad_() for x in given)
        attend(q, k, v, block_mask=order.mask)
        torch.sin(marker)
        torch.cuda.synchronize()
        print(f"ran {asked['name']} flex-{name}", flush=True)
        _profiler(True)
        torch.sin(marker)
        attend(q, k, v, block_mask=order.mask)
        torch.cuda.synchronize()
        _profiler(False)


def main() -> None:
    from benchmarks.gpu.record import Record, arguments

    parser = arguments("counters", __doc__)
    parser.add_argument("--only", default=DEFAULT, help="words in the names of problems")
    parser.add_argument("--variants", default="fused,gemm,naive,dense", help="with commas")
    parser.add_argument("--skip-torch", action="store_true", help="no FlexAttention")
    parser.add_argument("--torch-python", default=sys.executable, help="a Python with PyTorch")
    parser.add_argument("--ncu", default=shutil.which("ncu") or "ncu", help="Nsight Compute")
    parser.add_argument("--seconds", type=float, default=100, help="for either process")
    parser.add_argument("--target", help='run as the process looked at: "jax", or a file for torch')
    options = parser.parse_args()
    if options.target and options.target != "jax":
        for asked in json.loads(pathlib.Path(options.target).read_text()):
            run_in_torch(asked)
        return
    shapes = chosen(options.only, options.quick)
    if options.target:
        from benchmarks.gpu.device import prepare

        prepare(memory_fraction=0.5)
        for shape in shapes:
            run_in_jax(shape, options.variants.split(","))
        return
    metrics = known_metrics(options.ncu)
    record = Record("counters", options.output, options.only.replace(DEFAULT, ""), metrics=metrics)
    this = ["-m", "benchmarks.gpu.counters"]
    target = [sys.executable, *this, "--target", "jax", "--only", options.only]
    target += ["--variants", options.variants] + (["--quick"] if options.quick else [])
    rows = profiled(target, options.ncu, metrics, options.seconds)
    # Only now may JAX take the device in this process.
    from benchmarks.gpu.bounds import ceilings, forward_traffic
    from benchmarks.gpu.device import prepare
    from benchmarks.gpu.flex_process import request, warm

    prepare(memory_fraction=0.5)
    record.note(ceilings=ceilings(options.quick))
    named = {shape.name: shape for shape in shapes}

    def add(row: dict[str, Any]) -> None:
        known = named.get(row.get("problem", ""))
        record.add(**row, **(forward_traffic(known, row["variant"]) if known else {}))

    for row in rows:
        add(row)
    if options.skip_torch:
        return
    warm(options.torch_python, shapes, len(shapes), options.seconds)
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "requests.json"
        file.write_text(json.dumps([request(shape, folder, 1) for shape in shapes]))
        target = [options.torch_python, *this, "--target", str(file)]
        for row in profiled(target, options.ncu, metrics, options.seconds):
            add(row)


if __name__ == "__main__":
    main()
