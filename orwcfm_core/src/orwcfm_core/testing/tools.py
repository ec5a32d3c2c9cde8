"""What several checks need: expectations, guards around a call, and numbers that are nearly the same."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn
from unittest import mock

import numpy as np
import torch
from torch import Tensor

__all__ = ["Skip", "close", "expect", "generator", "offline", "random_state_kept"]


class Skip(Exception):
    """A check does not apply, for this reason; nobody but a check raises it."""


def expect(condition: bool, message: str) -> None:
    """Fail with a message unless a condition holds; unlike `assert` also under `python -O`."""
    if not condition:
        raise AssertionError(message)


def generator(seed: int) -> torch.Generator:
    """A source of random numbers that is nobody else's."""
    return torch.Generator().manual_seed(seed)


def close(got: Tensor, wanted: Tensor) -> bool:
    """Whether two tensors are the same but for rounding, measured by the spread and the size of what is wanted."""
    if got.shape != wanted.shape:
        return False
    got, wanted = got.detach().double(), wanted.detach().double()
    tolerance = 1e-3 * float(wanted.std(correction=0)) + 1e-5 * float(wanted.abs().max())
    return bool((got - wanted).abs().max() <= tolerance)


def _random_states() -> dict[str, Any]:
    _, keys, *rest = np.random.get_state()
    return {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": (np.asarray(keys).tobytes(), *rest),
        "random": random.getstate(),
    }


@contextmanager
def random_state_kept(advice: str) -> Iterator[None]:
    """Expect that the global random states of torch, numpy and `random` are the same afterwards.

    Args:
        advice: What to do if they are not.
    """
    saved = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        # Seeds that nobody uses: code that seeds with 0 every time would leave no trace the second time.
        torch.default_generator.manual_seed(72_019_463)
        np.random.seed(72_019_463)
        random.seed(72_019_463)
        before = _random_states()
        yield
        after = _random_states()
    finally:
        torch.set_rng_state(saved[0])
        np.random.set_state(saved[1])
        random.setstate(saved[2])
    changed = [name for name in before if before[name] != after[name]]
    expect(not changed, f"the global random state of {' and '.join(changed)} changed: {advice}")


@contextmanager
def offline() -> Iterator[None]:
    """Refuse to look up hosts and to connect to them, and expect that nobody tried; sockets of files are no network."""
    tried: list[str] = []

    def refuse(what: Any) -> NoReturn:
        tried.append(str(what))
        raise OSError("no network here: the conformance check is offline")

    def guarded(connect: Callable[[socket.socket, Any], Any]) -> Callable[[socket.socket, Any], Any]:
        unix = getattr(socket, "AF_UNIX", None)
        return lambda self, address: connect(self, address) if self.family == unix else refuse(address)

    with (
        mock.patch.object(socket.socket, "connect", guarded(socket.socket.connect)),
        mock.patch.object(socket.socket, "connect_ex", guarded(socket.socket.connect_ex)),
        mock.patch.object(socket, "getaddrinfo", lambda host, *args, **named: refuse(host)),
    ):
        yield
    expect(not tried, f"a connection to {', '.join(tried[:1])} was opened: load everything when it is built")
