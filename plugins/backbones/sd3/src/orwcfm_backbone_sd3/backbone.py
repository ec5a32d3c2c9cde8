"""Stable Diffusion 3 as policy and reference: one transformer, with its LoRA on or off."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Self

import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from orwcfm_core.backbone import Backbone, Condition, Policy, Reference
from orwcfm_core.errors import UserError
from peft import LoraConfig
from torch import Tensor

from orwcfm_backbone_sd3.loading import load_pipeline
from orwcfm_backbone_sd3.plugin import Config
from orwcfm_backbone_sd3.text import TextEncoder

__all__ = ["Sd3Backbone", "add_lora"]

_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}

_IMAGE = ["to_q", "to_k", "to_v", "to_out.0"]
_TEXT = ["add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"]


class _Model:
    """The transformer's prediction as a velocity in this project's time, with classifier-free guidance.

    The transformer f predicts noise minus data at noise level sigma, so that

        u(t, x, c) = -f(x, 1000 sigma, c),   sigma = 1 - t
        v(t, x, c) = u(t, x, null) + guidance (u(t, x, c) - u(t, x, null))

    References:
        Scaling Rectified Flow Transformers for High-Resolution Image Synthesis (Esser et al., 2024), arXiv:2403.03206
        Classifier-Free Diffusion Guidance (Ho and Salimans, 2022), arXiv:2207.12598

    Args:
        pipeline: Has the transformer, with LoRA.
        encode: Prompts to conditions.
        dtype: Of the transformer's frozen weights.
        guidance: At least 1, which is none.
    """

    def __init__(
        self, pipeline: StableDiffusion3Pipeline, encode: TextEncoder, dtype: torch.dtype, guidance: float
    ) -> None:
        self.transformer: SD3Transformer2DModel = pipeline.transformer
        self.timesteps = pipeline.scheduler.config.num_train_timesteps
        self.encode = encode
        self.dtype = dtype
        self.guidance = guidance
        self._null: Condition | None = None

    def velocity(self, t: Tensor, x: Tensor, condition: Condition) -> Tensor:
        u = self._predict(t, x, condition)
        if self.guidance == 1:
            return u
        u_null = self._predict(t, x, self._null_condition(x))
        return u_null + self.guidance * (u - u_null)

    @contextmanager
    def without_lora(self) -> Iterator[None]:
        """Compute with the frozen weights alone."""
        try:
            self.transformer.disable_adapters()
            yield
        finally:
            self.transformer.enable_adapters()

    def _predict(self, t: Tensor, x: Tensor, condition: Condition) -> Tensor:
        """u, `(B, C, H, W)` in the dtype of x."""
        sigma = 1 - t.to(x.device, torch.float32)
        (f,) = self.transformer(
            hidden_states=x.to(self.dtype),
            timestep=(self.timesteps * sigma).expand(len(x)),
            encoder_hidden_states=condition["prompt"],
            pooled_projections=condition["pooled"],
            return_dict=False,
        )
        return -f.to(x.dtype)

    def _null_condition(self, x: Tensor) -> Condition:
        """Of the empty prompt for every row of x; kept here, so that no condition carries it for every sample."""
        if self._null is None or self._null["prompt"].device != x.device:
            self._null = self.encode([""])
        return {name: value.expand(len(x), *value.shape[1:]) for name, value in self._null.items()}


class _Policy(Policy):
    def __init__(self, model: _Model, parameters: Mapping[str, Tensor]) -> None:
        self.model = model
        self._parameters = dict(parameters)

    def velocity(self, t: Tensor, x: Tensor, condition: Condition) -> Tensor:
        return self.model.velocity(t, x, condition)

    def parameters(self) -> Mapping[str, Tensor]:
        return dict(self._parameters)


class _Reference(Reference):
    def __init__(self, model: _Model) -> None:
        self.model = model

    def velocity(self, t: Tensor, x: Tensor, condition: Condition) -> Tensor:
        with self.model.without_lora():
            return self.model.velocity(t, x, condition)


class Sd3Backbone(Backbone):
    """Draws pictures from prompts with Stable Diffusion 3; samples are latents of its autoencoder.

    Args:
        config: Options.

    Raises:
        UserError: The model cannot be read, or has no pictures of this resolution.
    """

    chunk = 4
    """Pictures that are decoded at once: at full resolution the decoder needs more memory than the transformer."""

    def __init__(self, config: Config) -> None:
        dtype = _DTYPES[config.dtype]
        # The initial weights, and what loading draws, neither depend on the global random state nor change it.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            self._pipeline = load_pipeline(config.model, dtype, config.t5)
            parameters = add_lora(self._pipeline.transformer, config.rank)
        if config.gradient_checkpointing:
            self._pipeline.transformer.enable_gradient_checkpointing()
        self._shape = _latent_shape(self._pipeline, config.resolution)
        self._encode = TextEncoder(self._pipeline, dtype)
        model = _Model(self._pipeline, self._encode, dtype, config.guidance)
        self._policy = _Policy(model, parameters)
        self._reference = _Reference(model)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        return self._shape

    def policy(self) -> Policy:
        return self._policy

    def reference(self) -> Reference:
        return self._reference

    def encode(self, prompts: Sequence[str]) -> Condition:
        return self._encode(prompts)

    def to_images(self, x_1: Tensor) -> Tensor:
        vae = self._pipeline.vae
        z = x_1.to(vae.dtype) / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)
        with torch.autocast(z.device.type, enabled=False):
            images = torch.cat([vae.decode(part, return_dict=False)[0] for part in z.split(self.chunk)])
        return ((images + 1) / 2).clamp(0, 1)

    def to(self, device: torch.device) -> Self:
        self._pipeline.to(device)
        return self


def add_lora(transformer: SD3Transformer2DModel, rank: int) -> dict[str, Tensor]:
    """Put LoRA on all attention projections; it is zero at the start.

    Args:
        transformer: Frozen.
        rank: Of every update of weights.

    Returns:
        The trainable parameters, float32, by the names that diffusers' `load_lora_weights` reads.
    """
    # The text's queries of the last block lead nowhere: its output for the text is dropped.
    last = len(transformer.transformer_blocks) - 1
    transformer.add_adapter(
        LoraConfig(
            r=rank,
            lora_alpha=rank,
            target_modules=_IMAGE + _TEXT,
            exclude_modules=rf"transformer_blocks\.{last}\.attn\.add_q_proj",
        )
    )
    parameters = {}
    for name, parameter in transformer.named_parameters():
        if parameter.requires_grad:
            # peft makes them in the dtype of the frozen weights, in which small updates would be lost.
            parameter.data = parameter.data.float()
            parameters[f"transformer.{name.replace('.default.', '.')}"] = parameter
    return parameters


def _latent_shape(pipeline: StableDiffusion3Pipeline, resolution: int) -> tuple[int, int, int]:
    """Shape of the latents of a square picture."""
    config, factor = pipeline.transformer.config, pipeline.vae_scale_factor
    step = factor * config.patch_size
    largest = step * config.pos_embed_max_size
    if resolution % step or resolution > largest:
        raise UserError(
            f"backbone.resolution: expected a multiple of {step} up to {largest} for this model, got {resolution}"
        )
    return (config.in_channels, resolution // factor, resolution // factor)
