"""Checks what a wheel of jax_na holds: python check_wheel.py jax_na-*.whl."""

import re
import sys
import zipfile
from pathlib import Path

# Grows with the kernels' instances; a jump past it means debug symbols, or something foreign.
MAX_MEGABYTES = 20

REQUIRED = [
    r"jax_na/__init__\.py",
    r"jax_na/_core\.pyi",
    r"jax_na/_core(\.abi3|\.cpython-311-.*)\.so",
    r"jax_na/models/nat\.py",
    r"jax_na/py\.typed",
    r"jax_na-.*\.dist-info/licenses/LICENSE",
]
ALLOWED = r"jax_na/.*\.(py|pyi|typed|so)|jax_na-[^/]*\.dist-info/.*"


def problems(wheel: Path) -> list[str]:
    """Returns what is wrong with a wheel, one sentence each."""
    names = zipfile.ZipFile(wheel).namelist()
    found = []
    for pattern in REQUIRED:
        matches = [name for name in names if re.fullmatch(pattern, name)]
        if len(matches) != 1:
            found.append(f"needs exactly one file like {pattern}, and has {matches}")
    found += [f"should not hold {name}" for name in names if not re.fullmatch(ALLOWED, name)]
    megabytes = wheel.stat().st_size / 1e6
    if megabytes > MAX_MEGABYTES:
        found.append(f"has {megabytes:.1f} MB, more than {MAX_MEGABYTES}")
    if not re.search(r"-(cp311-cp311|cp312-abi3)-", wheel.name):
        found.append("is neither for Python 3.11 (cp311-cp311) nor for all later ones (cp312-abi3)")
    return found


def main() -> None:
    for wheel in map(Path, sys.argv[1:]):
        found = problems(wheel)
        if found:
            sys.exit("\n".join(f"{wheel.name} {problem}" for problem in found))
        print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.2f} MB, contents as they should be")


if __name__ == "__main__":
    main()
