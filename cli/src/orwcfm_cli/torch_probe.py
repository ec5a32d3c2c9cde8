"""Runs in a process of its own: tries torch, the device and torchvision, and reports each finding."""

from __future__ import annotations

import shutil
from importlib.metadata import PackageNotFoundError, distribution

from orwcfm_core.errors import UserError
from orwcfm_core.registry import blame, unmet

from orwcfm_cli.child import tell

__all__ = ["main"]


def main() -> None:
    """Tell of torch, then of what depends on it."""
    for topic, look in (("torch", _torch), ("device", _device), ("torchvision", _torchvision)):
        try:
            with blame(topic, UserError):
                status, text, advice = look()
        except UserError as e:
            status, text, advice = "problem", str(e), "install torch and torchvision that belong together"
        tell({"topic": topic, "status": status, "text": text, "advice": advice})
        if status == "problem" and topic == "torch":
            return


def _torch() -> tuple[str, str, str]:
    import torch

    return "ok", torch.__version__, ""


def _device() -> tuple[str, str, str]:
    import torch
    from orwcfm_core.trainer import choose_precision

    from orwcfm_cli.assemble import choose_device

    device = choose_device("auto")
    precision = choose_precision("auto", device)
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        text = (
            f"cuda, {torch.cuda.get_device_name(device)}, {free / 1e9:.1f} GB free of {total / 1e9:.1f} GB, {precision}"
        )
        return "ok", text, ""
    text = f"{device.type}, {torch.get_num_threads()} threads, {precision}"
    if device.type == "cpu" and shutil.which("nvidia-smi"):
        return "warning", f"{text}, though there is an NVIDIA driver", "install a torch that was built for CUDA"
    return "ok", text, ""


def _torchvision() -> tuple[str, str, str]:
    try:
        dist = distribution("torchvision")
    except PackageNotFoundError:
        return "ok", "not installed; a plugin that needs it brings it", ""
    misfits = unmet(dist, only="torch")
    if misfits:
        return "problem", f"{dist.version} {misfits[0]}", "install torch and torchvision that belong together"
    import torchvision

    return "ok", torchvision.__version__, ""


if __name__ == "__main__":
    main()
