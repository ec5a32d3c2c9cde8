"""A reward in the process of its own, with tensors from shared memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from orwcfm_core.errors import RunError
from orwcfm_core.registry import Plugin
from orwcfm_core.remote_memory import Layout, SharedMemory
from orwcfm_core.reward import Reward, Scores

__all__ = ["Served"]


class Served:
    """Builds a reward and calls it; each method answers the request of its name.

    Args:
        plugin: The reward's plugin.
        options: Its options, complete.
        memory: Descriptor of the shared memory.
        threads: torch's threads; the number at the other end, because it decides how sums are split.
    """

    def __init__(self, plugin: Plugin, options: Mapping[str, Any], memory: int, threads: int) -> None:
        # As in the process that trains, so that the same images get the same scores.
        torch.set_flush_denormal(True)
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        self.memory = SharedMemory(memory)
        self.reward: Reward = plugin.build(plugin.spec.config.model_validate(options), Reward)
        self.device = torch.device("cpu")

    def to(self, device: str) -> None:
        """Move the reward to a device, which this environment's torch must be able to use."""
        wanted = torch.device(device)
        torch.zeros(1, device=wanted)
        self.reward.to(wanted)
        self.device = wanted

    def describe(self) -> str:
        """The reward's line for the user."""
        return self.reward.describe()

    def score(self, images: Layout, prompts: Sequence[str], seed: int | None) -> list[Layout]:
        """Values, and the mask if there is one; a reward that draws random numbers draws those of the seed."""
        if seed is not None:
            torch.manual_seed(seed)
        with torch.no_grad():
            found = self.reward.score(self._read(images), prompts)
        return self._write(images, found if isinstance(found, Scores) else (found,))

    def features(self, images: Layout) -> list[Layout]:
        """Features, if there are any."""
        with torch.no_grad():
            return self._write(images, (self.reward.features(self._read(images)),))

    def _read(self, images: Layout) -> Tensor:
        return self.memory.read(images).to(self.device)

    def _write(self, images: Layout, found: Sequence[Any]) -> list[Layout]:
        """Write results behind the images, of which they may be views."""
        tensors = [result for result in found if result is not None]
        for result in tensors:
            if not isinstance(result, Tensor):
                raise RunError(f"returned a {type(result).__name__}, expected a tensor")
        return self.memory.write(tensors, behind=images)
