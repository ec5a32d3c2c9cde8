"""How well an image fits its prompt, by the embeddings of a CLIP."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import Self

import torch
from open_clip.tokenizer import SimpleTokenizer
from orwcfm_core.errors import UserError
from orwcfm_core.reward import Reward, Scores
from torch import Tensor

from orwcfm_reward_clip_score.loading import load
from orwcfm_reward_clip_score.normalisation import prepare
from orwcfm_reward_clip_score.plugin import Config

__all__ = ["ClipScore"]

log = logging.getLogger(__name__)


class ClipScore(Reward):
    """Agreement of image x and caption c, with embeddings f and g of unit length.

    For a CLIP, the cosine similarity, in [-1, 1]:

        r(x, c) = f(x) . g(c)

    For a model that was trained with the sigmoid loss, as SigLIP is, and so has a logit bias b and scale s, the
    probability that the caption is true of the image, in [0, 1]:

        r(x, c) = sigmoid(exp(s) f(x) . g(c) + b)

    An image with a pixel that is not finite is invalid. Gradients reach the images.

    Args:
        config: Options.

    Raises:
        UserError: There is no such model, or its weights cannot be had.

    References:
        Learning Transferable Visual Models From Natural Language Supervision (CLIP; Radford et al., 2021),
        https://arxiv.org/abs/2103.00020
        CLIPScore: A Reference-free Evaluation Metric for Image Captioning (Hessel et al., 2021), which multiplies the
        cosine by 2.5 and clips it at 0, https://arxiv.org/abs/2104.08718
        Sigmoid Loss for Language Image Pre-Training (SigLIP; Zhai et al., 2023), https://arxiv.org/abs/2303.15343
    """

    batch = 256
    """Images that are embedded at once."""

    def __init__(self, config: Config) -> None:
        self.name, self.model, self.tokenizer = load(config.model, config.pretrained)
        self.calibrated = self.model.logit_bias is not None
        self._texts: dict[str, Tensor] = {}

    def score(self, images: Tensor, prompts: Sequence[str]) -> Scores:
        cos = (self.features(images) * self.embed(prompts)).sum(dim=1)
        valid = images.flatten(1).isfinite().all(1)
        if self.calibrated:
            return Scores(torch.sigmoid(self.model.logit_scale.exp() * cos + self.model.logit_bias), valid)
        return Scores(cos, valid)

    def features(self, images: Tensor) -> Tensor:
        """Embeddings of images, of unit length, `(B, D)`."""
        parts = (images[start : start + self.batch] for start in range(0, len(images), self.batch))
        config = self.model.visual.preprocess_cfg
        return torch.cat([self.model.encode_image(prepare(part, config), normalize=True) for part in parts])

    def embed(self, prompts: Sequence[str]) -> Tensor:
        """Embeddings of prompts, of unit length, `(B, D)`; each prompt is encoded once.

        Raises:
            UserError: A prompt is empty, or has a word that the model never saw.
        """
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._texts]
        if any(not prompt.strip() for prompt in new):
            raise UserError("the prompt is empty, and an image cannot be compared with nothing: set reward.prompt")
        for prompt in new:
            self._check_words(prompt)
            self._check_length(prompt)
            # Alone: the last bits depend on what else is in a batch, and a resumed run meets prompts in another order.
            tokens = self.tokenizer([prompt]).to(next(self.model.parameters()).device)
            with torch.no_grad():
                self._texts[prompt] = self.model.encode_text(tokens, normalize=True)[0]
        return torch.stack([self._texts[prompt] for prompt in prompts])

    def _check_words(self, prompt: str) -> None:
        """Refuse words whose tokens have no embedding: the small model would read "an elephant" as "an"."""
        if not isinstance(self.tokenizer, SimpleTokenizer):
            return
        table = self.model.token_embedding.weight
        words = re.findall(r"\w+(?:[-']\w+)*", prompt)
        unknown = [word for word in words if not table[self.tokenizer.encode(word)].any(dim=1).all()]
        if unknown:
            raise UserError(
                f"{self.name} does not know {', '.join(map(repr, unknown))} in the prompt '{prompt}'; "
                "use other words, or another model"
            )

    def _check_length(self, prompt: str) -> None:
        """Say where the end of a prompt is not read."""
        if isinstance(self.tokenizer, SimpleTokenizer):
            # Two more mark its beginning and its end.
            tokens, most = len(self.tokenizer.encode(prompt)), self.tokenizer.context_length - 2
            if tokens > most:
                log.warning("%s reads the first %d of %d tokens of the prompt '%s'", self.name, most, tokens, prompt)

    def to(self, device: torch.device) -> Self:
        self.model.to(device)
        self._texts = {prompt: embedding.to(device) for prompt, embedding in self._texts.items()}
        return self

    def describe(self) -> str:
        measure = "calibrated probability of the caption" if self.calibrated else "cosine similarity with the caption"
        return f"{measure} by {self.name}"
