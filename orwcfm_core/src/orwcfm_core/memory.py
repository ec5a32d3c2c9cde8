"""What happens when memory runs out: the micro-batch is halved.

What does not shrink with the micro-batch, a round's samples above all, must fit; whether it does is seen beforehand.
"""

from __future__ import annotations

import logging
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch

from orwcfm_core.config import TrainConfig
from orwcfm_core.errors import RunError

__all__ = ["check_room", "explained", "fitting", "is_out_of_memory"]

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


@contextmanager
def explained(larger: str) -> Iterator[None]:
    """Turn an error for want of memory, where no smaller micro-batch can help, into one line.

    Args:
        larger: Options that memory grows with.

    Raises:
        RunError: There was one.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as e:
        if not is_out_of_memory(e):
            raise
        reason = str(e).splitlines()[0] if str(e) else type(e).__name__
        raise RunError(f"out of memory ({reason}): lower {larger}, or use a smaller model") from e


def check_room(train: TrainConfig, size: int, pixels: int, condition: int, device: torch.device) -> None:
    """See that what a run must hold at once fits. Elsewhere than on a GPU, the system would not refuse the memory, but
    end the process once it is used.

    Args:
        train: Options of the run.
        size: Numbers in a sample.
        pixels: Numbers in its image.
        condition: Bytes of what the backbone makes of its prompt.
        device: Where they are.

    Raises:
        RunError: They do not fit.
    """
    # Samples, images and conditions; for every draw the condition again, point and path's, reference's and sampling
    # policy's velocity, in each batch that is kept, and once the sample again and noise. Networks come on top.
    batches = train.batches if train.batches < train.updates else 1
    draws = train.draws * (4 * (4 * batches + 2) * size + batches * condition)
    a_round = train.samples * (4 * (size + pixels) + condition + draws)
    evaluation = 4 * train.eval_samples * (2 * size + pixels)
    smaller = "train.samples or train.draws" + (", or set train.passes=1" if batches > 1 else "")
    free = _free(device)
    for needed, what, options in (
        (a_round, "the samples of a round", smaller),
        (evaluation, "the samples of an evaluation", "train.eval_samples"),
    ):
        if free is not None and needed > free:
            raise RunError(
                f"does not fit: {what} take {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free on "
                f"{device.type}; lower {options}"
            )


def _free(device: torch.device) -> int | None:
    """Bytes that can still be had; None where nobody says."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    known = []
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    try:
        about = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        known.append(int(about["MemAvailable"].split()[0]) * 1024)
        if limit != resource.RLIM_INFINITY:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            known.append(max(0, limit - pages * resource.getpagesize()))
    except (OSError, KeyError, ValueError):
        # No Linux.
        return None
    return min(known)
