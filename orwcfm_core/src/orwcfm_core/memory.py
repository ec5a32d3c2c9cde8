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


def check_room(
    samples: int, draws: int, evaluated: int, size: int, pixels: int, condition: int, device: torch.device
) -> None:
    """See that what a run must hold at once fits. Elsewhere than on a GPU, the system would not refuse the memory, but
    end the process once it is used.

    Args:
        samples: Samples per round.
        draws: Draws of time and noise per sample.
        evaluated: Samples that reference and result are measured on.
        size: Numbers in a sample.
        pixels: Numbers in its image.
        condition: Bytes of what the backbone makes of its prompt.
        device: Where they are.

    Raises:
        RunError: They do not fit.
    """
    # Samples, images and conditions; for every draw the sample and its condition again, noise, point and velocity.
    # Networks come on top.
    a_round = samples * (4 * (size + pixels + 4 * draws * size) + (1 + draws) * condition)
    evaluation = 4 * evaluated * (2 * size + pixels)
    free = _free(device)
    for needed, what, options in (
        (a_round, "the samples of a round", "train.samples or train.draws"),
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
