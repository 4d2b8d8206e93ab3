"""All reports, one after the other, each in a process of its own: python -m benchmarks.gpu"""

from __future__ import annotations

import argparse
import pathlib
import subprocess
import sys
import time

from benchmarks.gpu.record import RESULTS

#: From the shortest to the longest; True where a report can do without PyTorch.
REPORTS = {
    "dispatch": False,
    "context": False,
    "counters": True,
    "models": False,
    "compare": True,
    "paper": False,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.gpu", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny problems: does it all run?")
    parser.add_argument("--skip-torch", action="store_true", help="no FlexAttention")
    parser.add_argument("--reports", default=",".join(REPORTS), help="names, with commas [all]")
    parser.add_argument("--seconds", type=float, default=900, help="most for a report [900]")
    parser.add_argument("--output", type=pathlib.Path, default=RESULTS, help="folder [results]")
    options = parser.parse_args()
    names = options.reports.split(",")
    unknown = sorted(set(names) - set(REPORTS))
    if unknown:
        parser.error(f"--reports: {', '.join(unknown)} should be of {', '.join(REPORTS)}")
    failed = []
    for name in names:
        command = [sys.executable, "-m", f"benchmarks.gpu.{name}", "--output", str(options.output)]
        command += ["--quick"] if options.quick else []
        command += ["--skip-torch"] if options.skip_torch and REPORTS[name] else []
        start = time.monotonic()
        try:
            wrong = subprocess.run(command, check=False, timeout=options.seconds).returncode
        except subprocess.TimeoutExpired:
            wrong = 1
        failed += [name] if wrong else []
        print(f"{name}: {time.monotonic() - start:.0f} s{', failed' if wrong else ''}", flush=True)
    if options.output == RESULTS and not options.quick:
        subprocess.run([sys.executable, "-m", "benchmarks.gpu.pages"], check=True)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
