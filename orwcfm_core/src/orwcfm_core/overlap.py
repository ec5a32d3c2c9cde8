"""Scores a part of a round's samples while the next part is drawn."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from queue import SimpleQueue
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from orwcfm_core.objective import Judged, Scored
from orwcfm_core.trainer import State

__all__ = ["Drawn", "Sample", "draw_and_score", "pipelined"]

P = TypeVar("P")
R = TypeVar("R")

Sample = Callable[[Tensor, Sequence[str]], tuple[Tensor, int]]
"""Noise and prompts to samples, `(B, *)`, and model evaluations in total."""


class Drawn(NamedTuple):
    """A round's samples.

    Args:
        x_1: The samples, `(B, *)`; all finite.
        finite: Which of them were so when they were drawn, `(B,)`; the others are 0 where they were not.
        images: The same as images, `(B, C, H, W)`.
        scored: What the objective made of them.
        nfe: Model evaluations in total.
    """

    x_1: Tensor
    finite: Tensor
    images: Tensor
    scored: Scored
    nfe: int


class _Part(NamedTuple):
    x_1: Tensor
    finite: Tensor
    images: Tensor
    prompts: Sequence[str]
    nfe: int


def draw_and_score(state: State, noise: Tensor, prompts: Sequence[str], parts: int, sample: Sample) -> Drawn:
    """Sample and score the samples.

    In several parts, each is scored in another thread while the next is drawn: what a reward waits for, in another
    process or on a network, and what it computes without Python's lock, then takes no time of its own for as long as
    drawing takes. Parts are drawn and scored in order, and rewards are normalised and combined over all of them; so
    threads change no number. That there are parts does, by rounding: a network's sums depend on the size of its batch.

    Args:
        state: The run.
        noise: What samples are made of, one row for each, `(B, ...)`.
        prompts: B strings.
        parts: At least 1, which scores everything at the end; at most B are made.
        sample: Makes the samples of a part, such as `state.sample`.

    Raises:
        RunError: A reward failed.
        UserError: A reward says that its user made a mistake.
    """
    size = -(-len(noise) // parts)
    pieces = [slice(start, start + size) for start in range(0, len(noise), size)]
    objective, drawn = state.components.objective, list[_Part]()

    def draw_each() -> Iterable[_Part]:
        for rows in pieces:
            drawn.append(_draw(state, noise[rows], prompts[rows], sample))
            yield drawn[-1]

    def judge(part: _Part) -> Judged:
        return objective.judge(part.x_1, part.images, part.prompts)

    judged = pipelined(draw_each(), judge) if len(pieces) > 1 else [judge(part) for part in draw_each()]
    x_1, finite, images = (_whole(tensors) for tensors in zip(*(part[:3] for part in drawn), strict=True))
    return Drawn(x_1, finite, images, objective.compose(judged, prompts), sum(part.nfe for part in drawn))


def _draw(state: State, noise: Tensor, prompts: Sequence[str], sample: Sample) -> _Part:
    x_1, nfe = sample(noise, prompts)
    # A sample that is not a number gets weight 0, and 0 times it would still not be a number.
    finite = x_1.flatten(1).isfinite().all(1)
    x_1 = x_1.nan_to_num(0.0, 0.0, 0.0)
    return _Part(x_1, finite, state.components.backbone.to_images(x_1), prompts, nfe)


def pipelined(items: Iterable[P], work: Callable[[P], R]) -> list[R]:
    """Work on each item in one other thread while this one makes the next.

    Args:
        items: Made by iterating, in this thread; no further one is made once work on one has failed.
        work: Done in order, on one item at a time.

    Returns:
        What it returned, in order.

    Raises:
        BaseException: Whatever making an item or working on one raised, once the other thread is at rest.
    """
    waiting: SimpleQueue[P | None] = SimpleQueue()
    results, failures = list[R](), list[BaseException]()
    flush = _flushes_denormals()

    def run() -> None:
        # A state of each thread; scores must not depend on which one computes them.
        torch.set_flush_denormal(flush)
        try:
            while (item := waiting.get()) is not None and not failures:
                results.append(work(item))
        except BaseException as e:
            failures.append(e)

    # A daemon, and not waited for when interrupted: a second Ctrl-C must be able to leave a reward that hangs.
    worker = threading.Thread(target=run, name="orwcfm-rewards", daemon=True)
    worker.start()
    try:
        for item in items:
            if failures:
                break
            waiting.put(item)
    except Exception as e:
        failures.append(e)
    finally:
        waiting.put(None)
    worker.join()
    if failures:
        raise failures[0]
    return results


def _whole(parts: Sequence[Tensor]) -> Tensor:
    """Parts of a batch as one; the only one is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _flushes_denormals() -> bool:
    """Whether this thread takes denormal numbers for 0."""
    return float(torch.tensor(1e-39) * 1) == 0.0
