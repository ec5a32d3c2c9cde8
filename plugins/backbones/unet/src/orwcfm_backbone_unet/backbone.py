"""The U-Net as policy and reference."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Mapping, Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Self

import torch
from orwcfm_core.backbone import Backbone, Condition, Policy, Reference, VelocityField
from orwcfm_core.errors import UserError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from orwcfm_backbone_unet.classes import VOCABULARY
from orwcfm_backbone_unet.network import UNet
from orwcfm_backbone_unet.plugin import Config

__all__ = ["UNetBackbone", "load_network"]

log = logging.getLogger(__name__)


class _Field(VelocityField):
    """A U-Net with classifier-free guidance: `v = v_null + guidance (v_label - v_null)`."""

    def __init__(self, network: UNet, guidance: float) -> None:
        self.network = network
        self.guidance = guidance

    def velocity(self, t: Tensor, x: Tensor, condition: Condition) -> Tensor:
        v = self.network(t, x, condition.get("label"))
        if self.guidance == 1 or "label" not in condition:
            return v
        v_null = self.network(t, x)
        return v_null + self.guidance * (v - v_null)


class _Policy(_Field, Policy):
    def parameters(self) -> Mapping[str, Tensor]:
        return dict(self.network.named_parameters())


class _Reference(_Field, Reference):
    pass


class UNetBackbone(Backbone):
    """Draws 28x28 grey images, of any class or of the one that a prompt names.

    A prompt that names no class, or several, conditions on the null class: any class may come.

    Args:
        config: Options.

    Raises:
        UserError: The weights are not a file of this network.
    """

    def __init__(self, config: Config) -> None:
        network, data = load_network(config.weights)
        if config.guidance != 1 and not config.conditional:
            log.warning("backbone.guidance: only a conditional model can be guided, set backbone.conditional=true")
        self._conditional = config.conditional
        self._vocabulary = VOCABULARY[data]
        self._policy = _Policy(network, config.guidance)
        self._reference = _Reference(copy.deepcopy(network).requires_grad_(False), config.guidance)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        return (1, 28, 28)

    def policy(self) -> Policy:
        return self._policy

    def reference(self) -> Reference:
        return self._reference

    def encode(self, prompts: Sequence[str]) -> Condition:
        if not self._conditional:
            return {}
        label_of = {prompt: self._label(prompt) for prompt in set(prompts)}
        device = next(self._policy.network.parameters()).device
        return {"label": torch.tensor([label_of[prompt] for prompt in prompts], device=device)}

    def to_images(self, x_1: Tensor) -> Tensor:
        return ((x_1 + 1) / 2).clamp(0, 1)

    def from_images(self, images: Tensor) -> Tensor:
        grey = images.mean(1, keepdim=True)
        if grey.shape[1:] != self.sample_shape:
            size = self.sample_shape[1:]
            grey = torch.nn.functional.interpolate(grey, size, mode="bilinear", antialias=True)
        return 2 * grey - 1

    def to(self, device: torch.device) -> Self:
        self._policy.network.to(device)
        self._reference.network.to(device)
        return self

    def _label(self, prompt: str) -> int:
        named = self._vocabulary.named(prompt)
        return named[0] if len(named) == 1 else self._policy.network.null_class


def load_network(weights: str) -> tuple[UNet, str]:
    """Read a network and the name of the data that it was trained on.

    Args:
        weights: `fashion`, `mnist`, or the path of a .safetensors file that train_unet.py wrote.

    Raises:
        UserError: There is no such file, or it is none of this network's.
    """
    if weights in VOCABULARY:
        with as_file(files("orwcfm_backbone_unet") / "weights" / f"{weights}.safetensors") as path:
            return _read(path)
    path = Path(weights).expanduser()
    if not path.is_file():
        raise UserError(f"backbone.weights: expected {', '.join(VOCABULARY)} or the path of a file, got '{weights}'")
    return _read(path)


def _read(path: Path) -> tuple[UNet, str]:
    try:
        with safe_open(path, framework="pt") as file:
            about: dict[str, Any] = file.metadata() or {}
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}
        network = UNet(**json.loads(about["network"]))
        network.load_state_dict(tensors)
        data = about["data"]
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as e:
        reason = " ".join(str(e).split())[:200]
        raise UserError(f"backbone.weights: {path} is not a file of this U-Net ({reason})") from e
    if data not in VOCABULARY:
        raise UserError(f"backbone.weights: {path} was trained on '{data}', expected one of {', '.join(VOCABULARY)}")
    return network, data
