"""PyTorch's FlexAttention, in a process of its own: python -m benchmarks.gpu.flex

Reads a problem a line as JSON, and answers with a line: the milliseconds of both passes with tokens
in row-major order and sorted by boxes, and where some of its results are. Sorting is not timed.
`--warm` compiles the problems only, for the caches of PyTorch's compiler; several processes can.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import statistics
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from benchmarks.gpu.inputs import in_torch

BLOCK = 128
ORDERS = ("row-major", "tiled")


@dataclasses.dataclass
class Order:
    """Tokens in some order: where each comes from, and what FlexAttention masks with."""

    source: torch.Tensor  # [tokens] position in row-major order
    mask: BlockMask


def token_order(spatial: list[int], dilation: list[int], tile: list[int] | None) -> np.ndarray:
    """Row-major positions of the tokens, sorted by dilation group, then by box of the group; the
    order in which they are for None.
    """
    flat = np.arange(int(np.prod(spatial)))
    if tile is None:
        return flat
    places = np.unravel_index(flat, spatial)
    groups = [place % d for place, d in zip(places, dilation, strict=True)]
    inner = [place // d for place, d in zip(places, dilation, strict=True)]
    boxes = [place // t for place, t in zip(inner, tile, strict=True)]
    # The last key is the first that np.lexsort looks at.
    return np.lexsort([*reversed(inner), *reversed(boxes), *reversed(groups)])


def make_order(problem: dict[str, Any], tile: list[int] | None, device: str) -> Order:
    """The order, and the mask of a problem whose windows are given per axis as `begin` and `end`,
    in positions of a dilation group.
    """
    spatial, dilation = problem["spatial"], problem["dilation"]
    order = token_order(spatial, dilation, tile)
    tokens = len(order)
    places = [p[order] for p in np.unravel_index(np.arange(tokens), spatial)]

    def on_device(x: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(x.astype(np.int32)).to(device)

    inner, group, begins, ends = [], [], [], []
    for place, d, begin, end in zip(
        places, dilation, problem["begin"], problem["end"], strict=True
    ):
        inner.append(on_device(place // d))
        group.append(on_device(place % d) if d > 1 else None)
        begins.append(on_device(np.asarray(begin)[place]))
        ends.append(on_device(np.asarray(end)[place]))

    def seen(batch: Any, head: Any, query: Any, key: Any) -> Any:
        visible = None
        for position, which, begin, end in zip(inner, group, begins, ends, strict=True):
            inside = (position[key] >= begin[query]) & (position[key] < end[query])
            if which is not None:
                inside = inside & (which[key] == which[query])
            visible = inside if visible is None else visible & inside
        return visible

    if tokens <= 4096:
        block = min(BLOCK, tokens)
        mask = create_block_mask(seen, None, None, tokens, tokens, device=device, BLOCK_SIZE=block)
    else:
        mask = _mask_by_rows(seen, tokens, device)
    return Order(torch.from_numpy(order).to(device), mask)


def _mask_by_rows(seen: Callable[..., Any], tokens: int, device: str) -> BlockMask:
    """create_block_mask for many tokens, without a tensor of all pairs."""
    count = -(-tokens // BLOCK)
    keys = torch.arange(count * BLOCK, device=device)
    real = keys < tokens
    partial = torch.zeros(count, count, dtype=torch.bool, device=device)
    full = torch.zeros_like(partial)
    for row in range(count):
        queries = torch.arange(row * BLOCK, min((row + 1) * BLOCK, tokens), device=device)
        visible = seen(0, 0, queries[:, None], keys.clamp(max=tokens - 1)[None]) & real
        blocks = visible.reshape(len(queries), count, BLOCK)
        some, every = blocks.any(2).any(0), blocks.all(2).all(0)
        every = every & (len(queries) == BLOCK)
        partial[row], full[row] = some & ~every, every

    def listed(dense: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        counts = dense.sum(1, dtype=torch.int32)
        indices = torch.argsort(dense.int(), dim=1, descending=True, stable=True)
        return counts[None, None], indices.to(torch.int32)[None, None]

    return BlockMask.from_kv_blocks(
        *listed(partial), *listed(full), BLOCK_SIZE=BLOCK, mask_mod=seen, seq_lengths=(tokens,) * 2
    )


def _milliseconds(call: Callable[[int], Any], sets: int, rounds: int, device: str) -> list[float]:
    """Of a call on one set after the other, between events behind work that keeps the device busy
    until the host is ahead.
    """
    if device == "cpu":  # which has no events, and is not what this is for
        return [0.0]
    busy = torch.randn(8192, 8192, dtype=torch.bfloat16, device=device)
    events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]

    def sample(calls: int) -> float:
        for _ in range(4):
            torch.mm(busy, busy)
        events[0].record()
        for i in range(calls):
            call(i % sets)
        events[1].record()
        torch.cuda.synchronize()
        return events[0].elapsed_time(events[1]) / calls

    first = sample(1)
    calls = max(sets, min(16, round(20 / first)))
    return [sample(calls) for _ in range(rounds)]


def _sample(problem: dict[str, Any], results: dict[str, Any], order: Order) -> dict[str, Any]:
    """The rows of `results` [B, heads, tokens, features] at the positions asked for."""
    at = torch.tensor(problem["positions"], device=order.source.device)
    back = torch.empty_like(order.source)
    back[order.source] = torch.arange(len(back), device=back.device)
    return {
        name: x[:, :, back[at]].transpose(1, 2).float().cpu().numpy() for name, x in results.items()
    }


def run(problem: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Rows of both orders and passes."""
    device, rows = options.device, []
    attend = flex_attention if options.eager else torch.compile(flex_attention, dynamic=False)
    full = (problem["batch"], int(np.prod(problem["spatial"])), problem["heads"])
    full = (*full, problem["head_dim"])
    for name in ORDERS:
        torch._dynamo.reset()
        order = make_order(problem, problem["tile"] if name == "tiled" else None, device)
        sets = []
        for i in range(1 if options.warm else problem["sets"]):
            names = ("query", "key", "value", "cotangent")
            given = (in_torch(n, i, full, problem["dtype"], device) for n in names)
            laid = [x[:, order.source].transpose(1, 2).contiguous() for x in given]
            trained = device != "cpu"  # where it has no backward pass
            sets.append([*(x.requires_grad_(trained) for x in laid[:3]), laid[3]])

        def forward(i: int, sets: Any = sets, order: Order = order) -> Any:
            return attend(*sets[i][:3], block_mask=order.mask)

        outs = [forward(i) for i in range(len(sets))]

        def backward(i: int, sets: Any = sets, outs: Any = outs) -> Any:
            return torch.autograd.grad(outs[i], sets[i][:3], sets[i][3], retain_graph=True)

        found = {"out": outs[0].detach()}
        if device != "cpu":
            found |= dict(zip(("dq", "dk", "dv"), backward(0), strict=True))
        if options.warm:
            continue
        path = f"{problem['folder']}/{problem['name']}-{name}.npz"
        np.savez(path, **_sample(problem, found, order))
        del found
        passes = {"forward": forward, "backward": backward}
        for which in passes if device != "cpu" else ["forward"]:
            samples = _milliseconds(passes[which], len(sets), problem["rounds"], device)
            rows.append(
                {
                    "order": name,
                    "pass": which,
                    "ms": round(statistics.median(samples), 5),
                    "shortest_ms": round(min(samples), 5),
                    "samples": len(samples),
                    "blocks": round(1 - order.mask.sparsity() / 100, 5),
                    "path": path,
                }
            )
    return {"name": problem["name"], "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.gpu.flex")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--eager", action="store_true", help="do not compile")
    parser.add_argument("--warm", action="store_true", help="compile only")
    options = parser.parse_args()
    for line in itertools.takewhile(str.strip, sys.stdin):
        problem = json.loads(line)
        try:
            answer = run(problem, options)
        except Exception as error:  # whatever PyTorch raises belongs into the report
            lines = str(error).splitlines() or [type(error).__name__]
            answer = {"name": problem["name"], "error": f"{type(error).__name__}: {lines[0]}"[:200]}
        if options.device != "cpu":
            torch.cuda.empty_cache()
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
