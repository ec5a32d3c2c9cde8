"""The mixture as a model to fine-tune: an exact reference, and a policy that starts from it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Self

import torch
from orwcfm_core.backbone import Backbone, Condition, Policy, Reference
from torch import Tensor, nn

from orwcfm_backbone_gmm.mixture import GaussianMixture, place_means
from orwcfm_backbone_gmm.plugin import GmmConfig

__all__ = ["GmmBackbone", "GmmPolicy", "GmmReference", "Residual"]

_SIDE = 32


class Residual(nn.Module):
    """A small network `f(t, x, p)` whose last layer is zero.

    It also sees the component probabilities p of the point, in which a change of the mixture's weights is smooth.

    Args:
        dim: Dimensions of a point.
        components: Of the mixture.
        width: Of the two hidden layers.
    """

    def __init__(self, dim: int, components: int, width: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        sizes = [1 + dim + components, width, width]
        self.hidden = nn.ModuleList(_linear(a, b, generator) for a, b in pairwise(sizes))
        self.out = _empty_linear(width, dim)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Features `(B, 1 + d + K)` to a velocity `(B, d)`."""
        for layer in self.hidden:
            features = nn.functional.silu(layer(features))
        velocity: Tensor = self.out(features)
        return velocity


def _empty_linear(fan_in: int, fan_out: int) -> nn.Linear:
    """A linear layer of uninitialised weights; `nn.Linear` alone would draw from the global random state."""
    return nn.Linear(fan_in, fan_out, device="meta").to_empty(device="cpu")


def _linear(fan_in: int, fan_out: int, generator: torch.Generator) -> nn.Linear:
    """A linear layer whose initial weights do not depend on the global random state."""
    layer = _empty_linear(fan_in, fan_out)
    bound = 1 / math.sqrt(fan_in)
    nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
    nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
    return layer


class GmmReference(Reference):
    """The exact velocity field of the mixture.

    Args:
        mixture: The mixture.
    """

    def __init__(self, mixture: GaussianMixture) -> None:
        self.mixture = mixture

    def velocity(self, t: Tensor, x: Tensor, condition: Condition) -> Tensor:
        return self.mixture.velocity(t, x)


class GmmPolicy(Policy):
    """`v(t, x) = v_ref(t, x) + scale f(t, x / scale, p(t, x))`; f is a small network, zero at the start.

    Args:
        mixture: The mixture.
        residual: The network f.
        scale: Typical size of a coordinate.
    """

    def __init__(self, mixture: GaussianMixture, residual: Residual, scale: float) -> None:
        self.mixture = mixture
        self.residual = residual
        self.scale = scale

    def velocity(self, t: Tensor, x: Tensor, condition: Condition) -> Tensor:
        # Small layers gain nothing from bf16, and theory is to be compared in full precision.
        with torch.autocast(x.device.type, enabled=False):
            s = t.to(x).reshape(-1, 1).expand(len(x), 1)
            features = torch.cat([s, x / self.scale, self.mixture.responsibilities(t, x)], dim=1)
            f: Tensor = self.residual(features.to(self.residual.out.weight.dtype))
            return self.mixture.velocity(t, x) + self.scale * f.to(x)

    def parameters(self) -> Mapping[str, Tensor]:
        return dict(self.residual.named_parameters())


class GmmBackbone(Backbone):
    """A Gaussian mixture of equal shares.

    Args:
        config: Geometry of the mixture, and size of the network.
    """

    def __init__(self, config: GmmConfig) -> None:
        self.config = config
        self.mixture = GaussianMixture(place_means(config.dim, config.components, config.radius), config.std)
        self.residual = Residual(config.dim, config.components, config.width)
        self._policy = GmmPolicy(self.mixture, self.residual, max(1.0, config.radius))
        self._reference = GmmReference(self.mixture)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        return (self.config.dim,)

    def policy(self) -> GmmPolicy:
        return self._policy

    def reference(self) -> GmmReference:
        return self._reference

    def encode(self, prompts: Sequence[str]) -> Condition:
        return {}

    def to_images(self, x_1: Tensor) -> Tensor:
        """Each point as a soft dot in a picture of the first two dimensions, `(B, 1, 32, 32)`; far ones at the edge."""
        extent = self.config.radius + 4 * self.config.std
        position = torch.zeros(len(x_1), 2, dtype=x_1.dtype, device=x_1.device)
        position[:, : min(2, x_1.shape[1])] = x_1[:, :2]
        pixel = (position / extent).clamp(-1, 1) * (_SIDE - 1) / 2 + (_SIDE - 1) / 2
        axis = torch.arange(_SIDE, dtype=x_1.dtype, device=x_1.device)
        across, down = (-(axis - pixel[:, i, None]).square() / 2 for i in (0, 1))
        return (across[:, None, None, :] + down.flip(1)[:, None, :, None]).exp()

    def to(self, device: torch.device) -> Self:
        self.mixture.to(device)
        self.residual.to(device)
        return self
