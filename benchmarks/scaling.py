"""How the cost of a round grows with its samples and with the parameters of the network.

    python benchmarks/scaling.py

Processor time, one thread; 4 sampling steps and 1 update, so that it ends soon. Networks are U-Nets of other widths
with random weights.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from measure import alternating, default_run
from orwcfm_backbone_unet.network import UNet
from safetensors.torch import save_file

SHORT: dict[str, dict[str, Any]] = {"sampler": {"steps": 4}, "reg": {"name": "w2"}}
SAMPLES = (64, 256, 1024, 4096)
WIDTHS = ((24, 48), (48, 96), (96, 192), (144, 288))


def main() -> None:
    per_sample = {n: seconds(n) / n for n in SAMPLES}
    for n, cost in per_sample.items():
        print(
            f"A round of {n} samples, of 4 steps and 1 update, takes {n * cost:.2f} s, {1000 * cost:.2f} ms each: "
            f"{cost / per_sample[SAMPLES[1]]:.2f} times as of {SAMPLES[1]}"
        )
    for width in WIDTHS:
        print(of_width(width))


def of_width(width: tuple[int, int]) -> str:
    """What a round of a U-Net of this width takes."""
    network = UNet(channels=width)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.safetensors"
        about = {"network": json.dumps({"channels": width}), "data": "fashion"}
        save_file({name: t.contiguous() for name, t in network.state_dict().items()}, path, about)
        trainer, state = run(64, {"backbone": {"weights": str(path)}})
    found = alternating({"round": lambda: trainer.round(state), "model": lambda: model(state)}, repeats=3)
    millions = sum(p.numel() for p in network.parameters()) / 1e6
    return (
        f"With {millions:.2f} M parameters a round of 64 samples takes {min(found['round']):.2f} s, "
        f"{min(found['round']) / min(found['model']):.1f} times a forward pass of the network"
    )


def run(samples: int, tables: dict[str, dict[str, Any]] | None = None) -> Any:
    """A short run's trainer and state."""
    return default_run({**SHORT, "train": {"samples": samples, "updates": 1}, **(tables or {})})


def seconds(samples: int) -> float:
    """Of a round; the less it takes, the more often it is measured."""
    trainer, state = run(samples)
    if samples <= 1024:
        trainer.round(state)
    found = []
    for _ in range(max(1, min(5, 1024 // samples))):
        began = time.process_time()
        trainer.round(state)
        found.append(time.process_time() - began)
    return min(found)


@torch.no_grad()
def model(state: Any) -> None:
    """A forward pass of 64 samples."""
    with state.autocast():
        state.components.backbone.policy().velocity(torch.tensor(0.5), torch.zeros(64, 1, 28, 28), {})


if __name__ == "__main__":
    main()
