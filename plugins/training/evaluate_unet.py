"""Measure a U-Net that `orwcfm-backbone-unet` ships, with the classifier of the same data.

python evaluate_unet.py fashion /usr/share/datasets/fashion-mnist
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from data import load
from orwcfm_backbone_unet.backbone import UNetBackbone
from orwcfm_backbone_unet.plugin import Config
from orwcfm_core.measures import frechet_distance
from orwcfm_core.sampler import Euler
from orwcfm_reward_classifier.reward import load as load_classifier
from torch import Tensor


@torch.no_grad()
def main() -> None:
    """Print label entropy, mean top probability, class shares and Fréchet distances."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", help="fashion, mnist or the path of a file")
    parser.add_argument("data", type=Path)
    parser.add_argument("--samples", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    torch.set_flush_denormal(True)

    backbone = UNetBackbone(Config(weights=args.weights))
    name = "fashion" if "fashion" in args.weights else "mnist"
    net = load_classifier(name).classifier
    noise = torch.randn(args.samples, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    sampler = Euler(args.steps)
    drawn = torch.cat([sampler.sample(backbone.reference(), part, {}).x_1 for part in noise.split(256)])
    images = backbone.to_images(drawn)
    p = in_parts(lambda x: net(x).softmax(1), images)
    mean = p.mean(0)
    print(f"label entropy {-(mean * mean.log()).sum():.3f} nats")
    print(f"mean top probability {p.max(1).values.mean():.4f}")
    print("class shares", [round(share, 3) for share in (p.argmax(1).bincount(minlength=10) / len(p)).tolist()])

    real, _ = load(args.data, "test")
    features = in_parts(net.features, real)
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(0))
    # Of equal counts, for the distance shrinks with the number of samples.
    a, b = features[order[:5000]], features[order[5000 : 5000 + args.samples]]
    print(
        f"frechet distance, samples to half of the test set {frechet_distance(in_parts(net.features, images), a):.2f}"
    )
    print(f"frechet distance, as many images of the other half to it {frechet_distance(b, a):.2f}")

    labels = torch.arange(10).repeat_interleave(args.samples // 20)
    x_1 = sampler.sample(backbone.reference(), noise[: len(labels)], {"label": labels}).x_1
    drawn_as = in_parts(net, backbone.to_images(x_1)).argmax(1)
    print(f"conditional: share drawn as the class that was asked for {(drawn_as == labels).float().mean():.4f}")


def in_parts(function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Apply a function to 500 images at a time."""
    return torch.cat([function(part) for part in images.split(500)])


if __name__ == "__main__":
    main()
