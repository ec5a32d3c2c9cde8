"""What the benchmarks have in common: the default run, and calls that are measured in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from orwcfm_cli.assemble import assemble
from orwcfm_core.registry import Registry
from orwcfm_core.resolve import resolve
from orwcfm_core.trainer import State, Trainer

__all__ = ["alternating", "default_run", "ratio"]

Tables = Mapping[str, Mapping[str, Any]]


def default_run(tables: Tables | None = None, threads: int = 1) -> tuple[Trainer, State]:
    """The run that `orwcfm run` does, before its first round.

    Args:
        tables: Options by section that are other than the default.
        threads: Threads of the CPU. With one, processor time measures what is computed, whatever else the machine does.
    """
    torch.set_num_threads(threads)
    given: dict[str, dict[str, Any]] = {section: dict(table) for section, table in (tables or {}).items()}
    return assemble(resolve(given, Registry()))


def alternating(
    calls: Mapping[str, Callable[[], Any]], repeats: int, clock: Callable[[], float] = time.process_time
) -> dict[str, list[float]]:
    """Seconds that calls take, one after the other in each repeat: a change of the machine's speed falls on all alike.

    Args:
        calls: By name; each is called once before, to warm up.
        repeats: Measurements of each.
        clock: Processor time of all threads, or `time.perf_counter`.
    """
    for call in calls.values():
        call()
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            began = clock()
            call()
            found[name].append(clock() - began)
    return found


def ratio(found: Mapping[str, list[float]], of: str, to: str) -> float:
    """Median of the ratios within each repeat."""
    return statistics.median(a / b for a, b in zip(found[of], found[to], strict=True))
