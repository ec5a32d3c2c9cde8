"""What it costs to score in a process of its own, against a CLIP of the usual size.

    python benchmarks/remote_reward.py

The reward is the mean of all pixels, which a worker started with this same interpreter computes as well; what it takes
longer than here is the cost of passing the images and the scores. CLIP is open_clip's ViT-B-32 with random weights,
its resize included.
"""

from __future__ import annotations

import argparse
import importlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import open_clip
import torch
from orwcfm_core.remote import RemotePlugin
from orwcfm_core.reward import Reward
from torch import Tensor
from torch.nn import functional as F

MODULE = """
from orwcfm_core.plugin import ComponentConfig, RewardSpec, hookimpl


class MeanPixel:
    def __new__(cls, config):
        from orwcfm_core.reward import Reward, Scores

        class MeanPixel(Reward):
            def score(self, images, prompts):
                return Scores(images.flatten(1).mean(1))

        return MeanPixel()


@hookimpl
def orwcfm_rewards():
    return [RewardSpec(name="mean-pixel", summary="Mean.", config=ComponentConfig, factory="mean_pixel:MeanPixel")]
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64, help="images in a batch")
    parser.add_argument("--size", type=int, default=512, help="their height and width")
    parser.add_argument("--repeats", type=int, default=7, help="measurements of which the median counts")
    args = parser.parse_args()

    images, prompts = torch.rand(args.images, 3, args.size, args.size), ["a boot"] * args.images
    with tempfile.TemporaryDirectory() as folder, torch.no_grad(), closing(remote(Path(folder))) as there:
        here = importlib.import_module("mean_pixel").MeanPixel(None)
        assert torch.equal(there.score(images, prompts).values, here.score(images, prompts).values)
        clip = clip_pass()
        calls: list[Callable[[], Any]] = [
            lambda: there.score(images, prompts),
            lambda: here.score(images, prompts),
            lambda: clip(images),
        ]
        # One after the other in each repeat: what else the machine does then falls on all of them alike.
        rows = [[seconds(call) for call in calls] for _ in range(args.repeats)]
    crossing = statistics.median(remotely - locally for remotely, locally, _ in rows)
    reference = statistics.median(clipping for *_, clipping in rows)
    print(
        f"passing {args.images} images of 3x{args.size}x{args.size} to a reward in its own environment costs "
        f"{1000 * crossing:.0f} ms, {100 * crossing / reference:.1f} % of a pass of CLIP ViT-B-32 ({reference:.2f} s); "
        "the target is at most 5 %"
    )


def remote(folder: Path) -> Any:
    """The reward in a worker; its distribution is on the path of this interpreter, wherever it runs."""
    info = folder / "mean_pixel-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mean-pixel\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[orwcfm.rewards]\nmean-pixel = mean_pixel\n")
    (folder / "mean_pixel.py").write_text(MODULE)
    os.environ["PYTHONPATH"] = str(folder)
    sys.path.insert(0, str(folder))
    plugin = RemotePlugin("mean-pixel", sys.executable)
    return plugin.build(plugin.spec.config(), Reward)


def clip_pass() -> Callable[[Tensor], Tensor]:
    """Images to embeddings by a CLIP with random weights, which takes as long as one with good ones."""
    model = open_clip.create_model("ViT-B-32", pretrained=None).eval()
    return lambda images: model.encode_image(F.interpolate(images, (224, 224), mode="bicubic", antialias=True))


def seconds(call: Callable[[], Any]) -> float:
    """How long a call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
