"""What happens when memory runs out: the micro-batch is halved, which changes nothing but speed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from orwcfm_core.errors import RunError

__all__ = ["fitting", "is_out_of_memory"]

T = TypeVar("T")
log = logging.getLogger(__name__)


def fitting(attempt: Callable[[int], T], micro_batch: int) -> tuple[T, int]:
    """Attempt something with micro-batches that fit into memory.

    Args:
        attempt: Called with the micro-batch; it may be called again, so what it draws at random must be drawn before.
        micro_batch: Samples in the networks at once, to start with.

    Returns:
        What `attempt` returned, and the micro-batch that fitted.

    Raises:
        RunError: A single sample does not fit.
    """
    while True:
        try:
            return attempt(micro_batch), micro_batch
        except (RuntimeError, MemoryError) as e:
            if not is_out_of_memory(e):
                raise
            reason = str(e).splitlines()[0] if str(e) else type(e).__name__
        # Not within the handler: the exception holds on to the tensors of its frames.
        if micro_batch == 1:
            raise RunError(
                f"out of memory with a single sample at once ({reason}); use a smaller model or a larger device"
            )
        micro_batch //= 2
        log.warning("out of memory: going on with %d samples at once (train.micro_batch)", micro_batch)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device, or the computer, has no memory left."""
    # CUDA has an exception of its own; the CPU's and MPS's allocators only say so.
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return known or any(words in str(error) for words in ("can't allocate memory", "out of memory"))
