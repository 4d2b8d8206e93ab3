"""Device time in JAX, by wall clocks: how much longer a few more calls take.

A GPU's stream runs calls one after the other while the host is ahead of it. The time of k + 1
dispatches less that of one, each up to the moment the results are there, is k times the device time
of a dispatch: the costs of the first dispatch and of waiting are in both. A dispatch that is
shorter than its way through the host makes several calls on different inputs.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

CACHE_BYTES = 50 * 2**20  # the L2 cache of an H100
MOST_SETS = 8
#: A dispatch that takes so many seconds has one sample; one that takes more is not even begun again
#: to tell what it does once from what it does every time.
LONG, TOO_LONG = 1.0, 5.0


class Timed(NamedTuple):
    """`dispatch()` starts `calls` calls, and returns their results; it took `first` seconds before
    anything was measured.
    """

    dispatch: Callable[[], Any]
    calls: int = 1
    first: float = 0.0


def input_sets(bytes_of_a_call: int) -> int:
    """How many sets of inputs to rotate over, so that none is in the cache when it comes again."""
    return max(1, min(MOST_SETS, math.ceil(4 * CACHE_BYTES / bytes_of_a_call)))


def seconds_of(dispatch: Callable[[], Any], times: int = 1) -> float:
    """How long dispatches take, up to the results of the last one."""
    results = None
    start = time.perf_counter()
    for _ in range(times):
        results = dispatch()  # what the last one returned is given back
    jax.block_until_ready(results)
    return time.perf_counter() - start


def first_seconds_of(dispatch: Callable[[], Any]) -> float:
    """How long a dispatch takes that has not run before: where it may be what is done but once
    (kernels are loaded, memory is found) that makes it long, of the second time.
    """
    seconds = seconds_of(dispatch)
    return seconds_of(dispatch) if LONG < seconds <= TOO_LONG else seconds


def in_turns(
    timed: dict[str, Timed], rounds: int = 5, seconds: float = 0.03, short_turns: int = 1
) -> dict[str, list[float]]:
    """Milliseconds of a call, samples of several rounds in which every one of `timed` has its turn:
    there and back, so that none always finds the card as hot as the same other one left it.

    Args:
      timed: by name; each has been dispatched before.
      rounds: how often; once where a dispatch is LONG.
      seconds: how long a sample should take about.
      short_turns: how many turns of a round a dispatch has that fits into a sample: a host that is
        not quiet disturbs those most.
    """
    found: dict[str, list[float]] = {name: [] for name in timed}
    more: dict[str, int] = {}
    short: dict[str, bool] = {}
    for name, one in timed.items():
        if one.first > LONG:  # nothing that a host does matters
            more[name] = 0
            found[name].append(1e3 * one.first / one.calls)
        else:
            once = seconds_of(one.dispatch)
            more[name] = max(1, min(50, round(seconds / once)))
            short[name] = once <= seconds
    there = list(timed.items())
    for turn in range(short_turns * rounds):
        for name, one in reversed(there) if turn % 2 else there:
            if more[name] and (short[name] or turn % short_turns == 0):
                once = seconds_of(one.dispatch)
                long = seconds_of(one.dispatch, 1 + more[name])
                # Where the host's noise is more than the device's time: what is surely enough.
                each = (long - once) / more[name] if long > once else long / (1 + more[name])
                found[name].append(1e3 * each / one.calls)
    return found


def summary(samples: list[float]) -> dict[str, Any]:
    """The median and the shortest, in milliseconds, and how many there are."""
    return {
        "ms": round(statistics.median(samples), 5),
        "shortest_ms": round(min(samples), 5),
        "samples": len(samples),
    }
