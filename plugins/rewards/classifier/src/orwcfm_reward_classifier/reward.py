"""The probability that an image shows one of some classes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from orwcfm_core.errors import RunError, UserError
from orwcfm_core.reward import Reward, Scores
from orwcfm_core.vocabulary import Vocabulary
from safetensors import SafetensorError, safe_open
from torch import Tensor

from orwcfm_reward_classifier.network import Classifier
from orwcfm_reward_classifier.plugin import Config
from orwcfm_reward_classifier.vocabulary import CLASSES, VOCABULARIES, known_names, plain_vocabulary

__all__ = ["ClassProbability", "Loaded", "load", "prepare"]

_GREY = (0.299, 0.587, 0.114)
"""Luma of red, green and blue (ITU-R BT.601)."""


class ClassProbability(Reward):
    """Sum of a classifier's softmax probabilities over chosen classes.

        r(x, c) = sum_{k in K(c)} softmax(logits(x))_k

    K is what `labels` names, the same for every sample, or else what the sample's prompt c names. Images of three
    channels are turned grey, and other sizes are resized to 28 x 28. An image with a pixel that is not finite is
    invalid. Gradients reach the images.

    Args:
        config: Options.

    Raises:
        UserError: The weights cannot be read, or do not know a label.
    """

    def __init__(self, config: Config) -> None:
        self.model = config.model
        self.labels = config.labels
        self.classifier, self.vocabulary, self.known = load(config.model)
        self.chosen: tuple[int, ...] | None = None
        if config.labels is not None:
            self.chosen = tuple(sorted({k for label in config.labels for k in self._lookup(label)}))
        # By prompt, for a run has few prompts and many samples of each.
        self.classes = cache(self._named)

    def score(self, images: Tensor, prompts: Sequence[str]) -> Scores:
        p = self.classifier(prepare(images)).softmax(dim=1)
        member = torch.zeros_like(p, dtype=torch.bool)
        for row, prompt in enumerate(prompts):
            member[row, list(self.chosen or self.classes(prompt))] = True
        return Scores(torch.where(member, p, 0.0).sum(dim=1), images.flatten(1).isfinite().all(1))

    def features(self, images: Tensor) -> Tensor:
        """The classifier's penultimate layer, `(B, D)`."""
        return self.classifier.features(prepare(images))

    def to(self, device: torch.device) -> Self:
        self.classifier.to(device)
        return self

    def describe(self) -> str:
        what = f"of {', '.join(self.labels)}" if self.labels else "of the classes that the prompt names"
        return f"probability {what} under the classifier {self.model}"

    def _lookup(self, label: str) -> tuple[int, ...]:
        if label not in self.vocabulary:
            raise UserError(f"labels: '{label}' is no class of {self.model} (known: {self.known})")
        return self.vocabulary[label]

    def _named(self, prompt: str) -> tuple[int, ...]:
        found = self.vocabulary.named(prompt)
        if not found:
            raise UserError(
                f"the prompt '{prompt}' names no class of {self.model}: set labels, or name a class in the "
                f"prompt (known: {self.known})"
            )
        return found


def prepare(images: Tensor) -> Tensor:
    """Images as the classifier takes them.

    Args:
        images: `(B, 1, H, W)` or `(B, 3, H, W)`, in [0, 1].

    Returns:
        `(B, 1, 28, 28)` float32, in [0, 1].

    Raises:
        RunError: The images have neither one channel nor three.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise RunError(f"expected images of 1 or 3 channels, (B, C, H, W), got shape {tuple(images.shape)}")
    images = images.float()
    if images.shape[1] == 3:
        images = (images * images.new_tensor(_GREY).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)
    if images.shape[-2:] != (28, 28):
        images = F.interpolate(images, (28, 28), mode="bilinear", antialias=True, align_corners=False)
    return images


class Loaded(NamedTuple):
    """A classifier with what its classes are called.

    Args:
        classifier: Frozen, in `eval()` mode.
        vocabulary: What a label or a prompt can name.
        known: Its classes and groups, for messages.
    """

    classifier: Classifier
    vocabulary: Vocabulary
    known: str


def load(model: str) -> Loaded:
    """Read a classifier.

    Its header names the data set (`data`: fashion or mnist), or else its classes (`classes`: names separated by
    commas). The sizes of the network follow from the shapes.

    Args:
        model: `fashion`, `mnist`, or the path of a .safetensors file.

    Raises:
        UserError: The file cannot be read, or is not a classifier's.
    """
    path = Path(__file__).parent / "weights" / f"{model}.safetensors" if model in CLASSES else Path(model).expanduser()
    if not path.is_file():
        raise UserError(f"{path}: no such file; model takes fashion, mnist or the path of a .safetensors file")
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            state = {key: file.get_tensor(key).float() for key in file.keys()}
    except (SafetensorError, OSError) as e:
        raise UserError(f"{path}: is not a readable safetensors file ({e})") from e
    try:
        classes, features = state["head.weight"].shape
        classifier = Classifier(width=len(state["stem.conv.weight"]), features=features, classes=classes)
        missing, unexpected = classifier.load_state_dict(state, strict=False)
    except (KeyError, RuntimeError, ValueError) as e:
        raise UserError(f"{path}: does not hold a classifier of this plugin ({type(e).__name__})") from e
    # Counters of batches, which only training needs, are not in the files.
    if unexpected or any(not key.endswith("num_batches_tracked") for key in missing):
        raise UserError(f"{path}: does not hold a classifier of this plugin (other tensors)")
    names = [name.strip() for name in about.get("classes", "").split(",") if name.strip()]
    data = about.get("data", "")
    if data in CLASSES and classes == len(CLASSES[data]):
        vocabulary, known = VOCABULARIES[data], known_names(data)
    elif len(names) == classes:
        vocabulary, known = plain_vocabulary(names), ", ".join(names)
    else:
        raise UserError(f"{path}: its header says neither 'data' (fashion, mnist) nor the names of {classes} 'classes'")
    return Loaded(classifier.eval().requires_grad_(False), vocabulary, known)
