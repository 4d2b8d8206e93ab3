"""What the CUDA kernels reach on a GPU. One command for each report:

    python -m benchmarks.gpu.compare     real problems, against other attention
    python -m benchmarks.gpu.paper       fused and gemm over naive, on many problems
    python -m benchmarks.gpu.roofline    intensity, counters of the profiler, longest context
    python -m benchmarks.gpu.dispatch    what a call costs beside its kernels
    python -m benchmarks.gpu.models      training steps of whole models

Each writes a JSON file as it goes; `python -m benchmarks.gpu.pages` makes docs/gpu-numbers.md and
its plots of these files. All of them take --quick, which tries the logic on any machine.

`python -m benchmarks.gpu.hopper_costs` measures plans, and fits the prices of the planner to them.
"""
