"""A reward that computes in another process, with another interpreter's packages."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self, TypeVar

import torch
from torch import Tensor

from orwcfm_core.errors import RunError, UserError
from orwcfm_core.registry import blame
from orwcfm_core.remote_memory import SharedMemory
from orwcfm_core.remote_process import Ended, Environment, Process
from orwcfm_core.reward import Reward, Scores

__all__ = ["RemoteReward"]

T = TypeVar("T")
log = logging.getLogger(__name__)

_LOADING = 600.0
"""Seconds that a reward may take to be built or moved, at least."""


class RemoteReward(Reward):
    """Passes images to a supervised worker and scores back.

    Images are copied once, into memory that both processes map, and keep their type and values; so the scores are those
    that the reward would give in this process under the same torch. Each call finds the images at the same place: a
    reward that wants to keep them must copy them. A worker that dies or takes too long is started anew, and the request
    is repeated once. Gradients do not cross.

    Args:
        name: The reward, as its environment's registry looks it up.
        environment: Where it is installed.
        options: Its options, complete.
        timeout: Time limit of each batch, in seconds.
        deterministic: Whether it draws no random numbers; otherwise those of a batch follow from torch's here.

    Raises:
        UserError: The reward cannot be built there.
        RunError: The worker ended twice while building it.
    """

    def __init__(
        self,
        name: str,
        environment: Environment,
        options: Mapping[str, Any],
        timeout: float = 600.0,
        deterministic: bool = True,
    ) -> None:
        self.name = name.partition("@")[0]
        self._asked = name
        self._environment = environment
        self._options = options
        self._timeout = timeout
        self._deterministic = deterministic
        # Loading weights and moving them may take longer than a batch.
        self._patience = max(timeout, _LOADING)
        self._device = torch.device("cpu")
        self._memory = SharedMemory()
        self._process: Process | None = None
        self._has_features = True
        self._persist(lambda process: None)

    def score(self, images: Tensor, prompts: Sequence[str]) -> Scores:
        # Of the generator that checkpoints keep, so that a run that is resumed goes on with the same random numbers.
        seed = None if self._deterministic else int(torch.randint(2**63 - 1, ()))
        values, *valid = self._compute("score", images, prompts=list(prompts), seed=seed)
        return Scores(values, *valid)

    @property
    def has_features(self) -> bool:
        return self._has_features

    def features(self, images: Tensor) -> Tensor | None:
        with self._named():
            return next(iter(self._compute("features", images)), None)

    def to(self, device: torch.device) -> Self:
        with self._named():
            self._persist(lambda process: process.ask(self._patience, "to", device=str(device)))
        self._device = device
        return self

    def describe(self) -> str:
        with self._named():
            described = self._persist(lambda process: process.ask(self._patience, "describe"))
        return f"{described}, in {self._environment.where}"

    def close(self) -> None:
        """End the worker; otherwise it ends with this object or with the program."""
        if self._process:
            self._process.close()
        self._memory.close()

    def _compute(self, op: str, images: Tensor, **request: Any) -> list[Tensor]:
        """Results of a request about images, on the images' device."""

        def attempt(process: Process) -> list[Tensor]:
            layout = self._memory.write([images])[0]
            found = process.ask(self._timeout, op, images=layout, **request)
            return [self._memory.read(result).to(images.device, copy=True) for result in found]

        return self._persist(attempt)

    def _persist(self, attempt: Callable[[Process], T]) -> T:
        """Attempt something; where the worker ends over it, once more with a new one."""
        try:
            return attempt(self._running())
        except Ended as e:
            log.warning("%s is started anew: %s", self._whose(), str(e))
        try:
            return attempt(self._running())
        except Ended as e:
            raise RunError(f"{self._whose()} failed twice: {e}") from e

    def _running(self) -> Process:
        """The worker, with the reward built and on its device."""
        if self._process is not None and not self._process.alive:
            try:
                self._process = self._started()
            except UserError as e:
                # It could be built before: this is no mistake of the user's any more.
                raise RunError(str(e)) from e
        elif self._process is None:
            self._process = self._started()
        return self._process

    def _started(self) -> Process:
        """A new worker, with the reward built and on its device."""
        process = Process(self._asked, self._environment, self._memory.descriptor)
        try:
            built = process.ask(self._patience, "build", options=self._options, threads=torch.get_num_threads())
            # Earlier versions of the other end say nothing.
            self._has_features = (built or {}).get("features", True)
            if self._device.type != "cpu":
                process.ask(self._patience, "to", device=str(self._device))
        except (UserError, RunError):
            process.close()
            raise
        return process

    def _whose(self) -> str:
        return f"the process of reward '{self.name}' in {self._environment.where}"

    def _named(self) -> Any:
        """Names the reward in errors; `orwcfm_core.reward.score` does so for scores."""
        return blame(f"reward '{self.name}'", RunError)
