"""One update of a trainer on the backbone `gmm`, with all that its gradient can be derived from again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from orwcfm_core.backbone import Backbone
from orwcfm_core.orw_cfm import OrwCfm
from orwcfm_core.registry import Registry
from orwcfm_core.reward import Reward
from orwcfm_core.testing.fakes import FunctionWeighting, SquaredDistance, perturb, start
from orwcfm_core.trainer import State, Trainer

__all__ = ["Update", "one_update", "trainer_on_gmm"]

_OPTIONS = {"device": "cpu", "precision": "fp32", "samples": 48, "updates": 1, "clip_norm": 1e9}


class Update(NamedTuple):
    """What one update drew and evaluated, in float64; N rows.

    Args:
        t: Times, `(N,)`.
        x_t: Points, `(N, *)`.
        u_t: Velocities of the paths, `(N, *)`.
        w: Weights, `(N,)`.
        v: The policy as a function of its parameters, `(N, *)`: derive the loss from it, then call `backward`.
        v_ref: The reference, `(N, *)`.
        v_old: The sampling policy, `(N, *)`.
        parameters: The policy's; a derivation's gradient is in their `grad`.
        gradient: What the trainer found, of all parameters in a row.
    """

    t: Tensor
    x_t: Tensor
    u_t: Tensor
    w: Tensor
    v: Tensor
    v_ref: Tensor
    v_old: Tensor
    parameters: list[Tensor]
    gradient: Tensor

    def derived(self, loss: Tensor) -> Tensor:
        """The gradient of the mean of a loss, which was derived from `v`, of all parameters in a row."""
        return _flat(torch.autograd.grad(loss.mean(), self.parameters))


def trainer_on_gmm(
    name: str,
    options: Mapping[str, Any],
    weights: Callable[[Tensor], Tensor],
    alpha: float = 0.0,
    steps: int = 4,
) -> tuple[OrwCfm, State]:
    """A trainer that is installed, and its state before the first round on `gmm` with the reward `component`.

    Args:
        name: The trainer's.
        options: Its options.
        weights: Weights as a function of the scores.
        alpha: Strength of the mean squared velocity difference.
        steps: Of the sampler.
    """
    registry = Registry()
    backbone, reward = (
        plugin.build(plugin.spec.config(), base)
        for plugin, base in (
            (registry.get("backbone", "gmm"), Backbone),
            (registry.get("reward", "component"), cast(type, Reward)),
        )
    )
    plugin = registry.get("trainer", name)
    trainer = plugin.build(plugin.spec.config.model_validate(_OPTIONS | dict(options)), Trainer)
    assert isinstance(trainer, OrwCfm)
    state = start(trainer, reward, SquaredDistance(alpha), FunctionWeighting(weights), backbone, ema=0.5, steps=steps)
    return trainer, state


def one_update(trainer: OrwCfm, state: State) -> Update:
    """Do a round of one update from a policy, a sampling policy and a reference that all differ.

    Args:
        trainer: With `updates=1` and a `clip_norm` that nothing reaches.
        state: Its state before the first round; float64 afterwards, and of no more use.
    """
    field = state.components.backbone.policy()
    perturb(field.parameters(), seed=1)
    perturb({str(i): p for i, p in enumerate(state.ema.average)}, seed=2)
    theta, theta_old = ([p.detach().clone() for p in tensors] for tensors in (state.ema.parameters, state.ema.average))
    drawn: list[Any] = []
    draw = trainer._draw

    def record(*args: Any) -> Any:
        drawn.append(draw(*args))
        return drawn[-1]

    # In the place of a method, to see what it draws.
    trainer._draw = record  # type: ignore[assignment, method-assign]
    trainer.round(state)
    (batch,) = drawn
    gradient = _flat([p.grad for p in state.ema.parameters if p.grad is not None])
    t, x_t, u_t, w = (tensor.double() for tensor in (batch.t, batch.x_t, batch.u_t, batch.w))

    def velocity(parameters: list[Tensor]) -> Tensor:
        for p, value in zip(state.ema.parameters, parameters, strict=True):
            p.data = value.double()
            p.grad = None
        return field.velocity(t, x_t, batch.condition)

    v_old = velocity(theta_old).detach()
    v = velocity(theta)
    v_ref = state.components.backbone.reference().velocity(t, x_t, batch.condition)
    return Update(t, x_t, u_t, w, v, v_ref, v_old, state.ema.parameters, gradient.double())


def _flat(tensors: Any) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])
