"""A U-Net of diffusers as policy and reference, in the time and the scale that TorchCFM trains in."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Self

import torch
from diffusers import UNet2DModel
from orwcfm_core.backbone import Backbone, Condition, Policy, Reference, VelocityField
from torch import Tensor

from orwcfm_backbone_torchcfm.loading import load_network
from orwcfm_backbone_torchcfm.plugin import Config

__all__ = ["TorchCfmBackbone"]


class _Field(VelocityField):
    """The network's output, which is a velocity from noise at t = 0 to data at t = 1."""

    def __init__(self, network: UNet2DModel) -> None:
        self.network = network

    def velocity(self, t: Tensor, x: Tensor, condition: Condition) -> Tensor:
        # Time goes in as it is, between 0 and 1.
        t = t.to(x.device, torch.float32).expand(len(x))
        (v,) = self.network(x.to(self.network.dtype), t, return_dict=False)
        return v.to(x.dtype)


class _Policy(_Field, Policy):
    def parameters(self) -> Mapping[str, Tensor]:
        return dict(self.network.named_parameters())


class _Reference(_Field, Reference):
    pass


class TorchCfmBackbone(Backbone):
    """Draws 32x32 colour pictures; prompts do not condition it.

    Dropout, which TorchCFM trains with, is off: in the policy alone it would hold it away from the reference.

    References:
        Improving and Generalizing Flow-Based Generative Models with Minibatch Optimal Transport (Tong et al., 2023),
            arXiv:2302.00482
        Diffusion Models Beat GANs on Image Synthesis (Dhariwal and Nichol, 2021), arXiv:2105.05233: the network

    Args:
        config: Options.

    Raises:
        UserError: The folder is missing, or holds no such network.
    """

    def __init__(self, config: Config) -> None:
        network = load_network(config.weights)
        self._policy = _Policy(network)
        self._reference = _Reference(copy.deepcopy(network).requires_grad_(False))

    @property
    def sample_shape(self) -> tuple[int, ...]:
        return (3, 32, 32)

    def policy(self) -> Policy:
        return self._policy

    def reference(self) -> Reference:
        return self._reference

    def encode(self, prompts: Sequence[str]) -> Condition:
        return {}

    def to_images(self, x_1: Tensor) -> Tensor:
        return ((x_1 + 1) / 2).clamp(0, 1)

    def from_images(self, images: Tensor) -> Tensor:
        colour = images.expand(-1, 3, -1, -1)
        size = self.sample_shape[1:]
        if colour.shape[2:] != size:
            colour = torch.nn.functional.interpolate(colour, size, mode="bilinear", antialias=True)
        return 2 * colour - 1

    def to(self, device: torch.device) -> Self:
        self._policy.network.to(device)
        self._reference.network.to(device)
        return self
