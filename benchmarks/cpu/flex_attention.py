"""PyTorch's compiled FlexAttention on the same problems, in a process of its own.

    PYTHON_WITH_TORCH benchmarks/cpu/flex_attention.py PROBLEMS.json FOLDER ROUNDS THREADS

Reads q, k, v from FOLDER/<index>.npz, writes its output beside it, and prints the milliseconds as
JSON. Tokens are permuted into tiles, which lets its block mask skip most; the permutation itself is
not timed.
"""

from __future__ import annotations

import json
import pathlib
import sys
import time
from typing import Any

import numpy as np


def tile_order(spatial: list[int], tile: list[int]) -> np.ndarray:
    """The flat index of each token when tokens are sorted tile by tile."""
    rank = len(spatial)
    index = np.arange(int(np.prod(spatial)))
    index = index.reshape([n for s, t in zip(spatial, tile, strict=True) for n in (s // t, t)])
    return index.transpose(*range(0, 2 * rank, 2), *range(1, 2 * rank, 2)).reshape(-1)


def run(problem: dict[str, Any], data: pathlib.Path, rounds: int) -> list[float]:
    """Milliseconds of every round after one that compiles."""
    import torch
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    spatial, window = problem["spatial"], problem["window"]
    order = tile_order(spatial, problem["flex_tile"])
    places = [torch.from_numpy(p[order].copy()) for p in map(np.ravel, np.indices(spatial))]
    starts = [
        (place - w // 2).clamp(0, length - w)
        for place, w, length in zip(places, window, spatial, strict=True)
    ]

    def seen(batch: Any, head: Any, query: Any, key: Any) -> Any:
        visible = None
        for place, start, w in zip(places, starts, window, strict=True):
            offset = place[key] - start[query]
            inside = (offset >= 0) & (offset < w)
            visible = inside if visible is None else visible & inside
        return visible

    loaded = np.load(data)
    tokens, (heads, dim) = len(order), loaded["q"].shape[-2:]
    q, k, v = (
        torch.from_numpy(loaded[n].reshape(1, tokens, heads, dim)[:, order].swapaxes(1, 2).copy())
        for n in "qkv"
    )
    block = problem["flex_block"]
    mask = create_block_mask(seen, 1, 1, tokens, tokens, device="cpu", BLOCK_SIZE=block)
    attend = torch.compile(flex_attention, dynamic=False)
    times = []
    with torch.no_grad():
        out = attend(q, k, v, block_mask=mask)
        for _ in range(rounds):
            start = time.perf_counter()
            out = attend(q, k, v, block_mask=mask)
            times.append(1e3 * (time.perf_counter() - start))
    back = np.empty((1, tokens, heads, dim), np.float32)
    back[:, order] = out.numpy().swapaxes(1, 2)
    np.save(data.with_suffix(".out.npy"), back.reshape(loaded["q"].shape))
    return times


def main() -> None:
    import torch

    problems, folder = json.loads(pathlib.Path(sys.argv[1]).read_text()), pathlib.Path(sys.argv[2])
    torch.set_num_threads(int(sys.argv[4]))
    times = []
    for i, problem in enumerate(problems):
        torch._dynamo.reset()
        times.append(run(problem, folder / f"{i}.npz", int(sys.argv[3])))
    print(json.dumps({"torch": torch.__version__, "ms": times}))


if __name__ == "__main__":
    main()
