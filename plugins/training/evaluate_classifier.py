"""Measure a classifier that `orwcfm-reward-classifier` ships, on the test images.

python evaluate_classifier.py /usr/share/datasets/fashion-mnist fashion.safetensors
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from data import load
from orwcfm_core.measures import frechet_distance
from orwcfm_reward_classifier.network import Classifier
from orwcfm_reward_classifier.reward import load as load_classifier
from orwcfm_reward_classifier.vocabulary import GROUPS
from safetensors import safe_open
from train_classifier import measure


def main() -> None:
    """Print accuracy, mean top probability, and the Fréchet distance between halves of the test set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("weights", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)

    net = load_classifier(str(args.weights)).classifier
    images, labels = load(args.data, "test")
    accuracy, top = measure(net, images, labels)
    print(f"accuracy {accuracy:.4f}")
    print(f"mean top probability {top:.4f}")
    with torch.no_grad():
        p = torch.cat([net(x).softmax(-1) for x in images.split(500)])
        features = torch.cat([net.features(x) for x in images.split(500)])
    own = p.gather(1, labels[:, None])[:, 0]
    print("mean probability of the true class", [round(own[labels == c].mean().item(), 3) for c in range(10)])
    with safe_open(args.weights, framework="pt") as file:
        groups = GROUPS[file.metadata()["data"]]
    for name, classes in groups.items():
        theirs = p[torch.isin(labels, torch.tensor(classes))]
        print(f"mean probability of {name}, of images of them {theirs[:, list(classes)].sum(1).mean():.4f}")
    a, b = features[torch.randperm(len(features), generator=torch.Generator().manual_seed(0))].chunk(2)
    print(f"frechet distance between halves {frechet_distance(a, b):.3f}")
    print(f"frechet distance to inverted images {frechet_distance(a, inverted_features(net, images)):.1f}")


@torch.no_grad()
def inverted_features(net: Classifier, images: torch.Tensor) -> torch.Tensor:
    """Features of the negatives of the first 5000 images: a scale to read the distance of the halves by."""
    return torch.cat([net.features(1 - x) for x in images[:5000].split(500)])


if __name__ == "__main__":
    main()
