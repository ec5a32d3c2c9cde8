"""Train the U-Net that `orwcfm-backbone-unet` ships: flow matching, the class dropped half the time.

python train_unet.py fashion /usr/share/datasets/fashion-mnist fashion.safetensors
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from pathlib import Path

import torch
from data import load
from orwcfm_backbone_unet.backbone import load_network
from orwcfm_backbone_unet.network import UNet
from safetensors.torch import save_file


def main() -> None:
    """Train, keep an exponential moving average, and write it as float16 with its description in the header."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=["fashion", "mnist"])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--start", help="weights to go on from: fashion, mnist or the path of a file")
    parser.add_argument("--steps", type=int, default=12_000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()

    torch.set_flush_denormal(True)
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    images, labels = load(args.data, "train")
    net = load_network(args.start)[0] if args.start else UNet()
    ema = copy.deepcopy(net)
    optimizer = torch.optim.AdamW(net.parameters(), lr=args.lr, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    warmup = 500
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda s: min((s + 1) / warmup, 0.5 * (1 + math.cos(math.pi * max(0, s - warmup) / (args.steps - warmup)))),
    )
    order = torch.randperm(len(images))
    start, position, running = time.monotonic(), 0, 0.0
    for step in range(1, args.steps + 1):
        if position + args.batch > len(order):
            order, position = torch.randperm(len(images)), 0
        rows = order[position : position + args.batch]
        position += args.batch
        x_1, label = 2 * images[rows] - 1, labels[rows]
        label = torch.where(torch.rand(args.batch) < 0.5, net.null_class, label)
        x_0 = torch.randn_like(x_1)
        t = (torch.randperm(args.batch) + torch.rand(args.batch)) / args.batch
        s = t.view(-1, 1, 1, 1)
        with torch.autocast("cpu", torch.bfloat16):
            loss = (net(t, (1 - s) * x_0 + s * x_1, label) - (x_1 - x_0)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        decay = min(0.999, step / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(ema.parameters()), list(net.parameters()), 1 - decay)
        running += loss.item()
        if step % 500 == 0 or step == args.steps:
            print(f"step {step} loss {running / 500:.4f} seconds {time.monotonic() - start:.0f}", flush=True)
            running = 0.0
            about = {
                "network": json.dumps({"channels": [48, 96], "blocks": [1, 1], "embedding": 128, "classes": 10}),
                "data": args.name,
                "steps": str(step),
                "licence": "Apache-2.0",
            }
            save_file({k: v.half().contiguous() for k, v in ema.state_dict().items()}, args.out, metadata=about)


if __name__ == "__main__":
    main()
