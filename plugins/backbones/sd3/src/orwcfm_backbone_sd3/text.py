"""Prompts to embeddings, each once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import StableDiffusion3Pipeline
from orwcfm_core.backbone import Condition
from torch import Tensor

__all__ = ["TextEncoder"]


class TextEncoder:
    """The pipeline's two or three text encoders, with a memory of every prompt.

    A prompt is embedded alone and in the encoders' own precision: its embedding does not depend on its batch or on
    who asked first, so a resumed run sees the same one. The memory is the CPU's, since an embedding has 3 MB.

    Args:
        pipeline: Has the encoders and their tokenizers; embeddings go to the device of its transformer.
        dtype: Of the embeddings.
    """

    def __init__(self, pipeline: StableDiffusion3Pipeline, dtype: torch.dtype) -> None:
        self._pipeline = pipeline
        self._dtype = dtype
        self._known: dict[str, tuple[Tensor, Tensor]] = {}

    def __call__(self, prompts: Sequence[str]) -> Condition:
        """Embeddings of B prompts: `prompt`, `(B, S, D)`, of their tokens, and `pooled`, `(B, P)`, of the whole."""
        device = self._pipeline.transformer.device
        row_of = {prompt: row for row, prompt in enumerate(dict.fromkeys(prompts))}
        rows = torch.tensor([row_of[prompt] for prompt in prompts], device=device)
        tokens, pooled = zip(*(self._embed(prompt, device) for prompt in row_of), strict=True)
        # Repeated on the device: what many samples share crosses to it once.
        return {"prompt": torch.cat(tokens).to(device)[rows], "pooled": torch.cat(pooled).to(device)[rows]}

    def _embed(self, prompt: str, device: torch.device) -> tuple[Tensor, Tensor]:
        """Embeddings of one prompt, `(1, S, D)` and `(1, P)`, on the CPU."""
        if prompt not in self._known:
            with torch.no_grad(), torch.autocast(device.type, enabled=False):
                tokens, _, pooled, _ = self._pipeline.encode_prompt(
                    prompt, None, None, device=device, do_classifier_free_guidance=False
                )
            self._known[prompt] = tokens.to("cpu", self._dtype), pooled.to("cpu", self._dtype)
        return self._known[prompt]
