"""Saves and restores everything that a run needs to go on exactly where it was; safetensors and JSON only."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from orwcfm_core.backbone import Policy
from orwcfm_core.errors import RunError, UserError
from orwcfm_core.memory import is_out_of_memory
from orwcfm_core.trainer import State

__all__ = [
    "best_checkpoint",
    "best_round",
    "forget_after",
    "load_checkpoint",
    "load_sampling_policy",
    "newest_checkpoint",
    "round_of",
    "save_checkpoint",
]

log = logging.getLogger(__name__)

_MANIFEST = "manifest.json"
_MEMORY = "memory."
_FILES = frozenset({"policy.safetensors", "sampling.safetensors", "training.safetensors", "state.json"})
_MISFITS = (SafetensorError, ValueError, KeyError, IndexError, TypeError, AttributeError, RuntimeError)
"""What reading a checkpoint of something else may raise; RecursionError is a RuntimeError."""


def save_checkpoint(state: State, folder: Path, keep: int, quality: float | None = None) -> Path:
    """Write a checkpoint so that it is either there as a whole or not at all.

    All files are written to a temporary folder and flushed, the manifest with their SHA-256 last; then the folder is
    renamed. Older checkpoints beyond `keep` are removed, but for the one of the best quality; so are newer ones, which
    are damaged if the run went on from an older one.

    Args:
        state: What is saved.
        folder: Folder of all checkpoints of a run.
        keep: Checkpoints to keep, at least 1.
        quality: How good the sampling policy is, the larger the better; None if nobody knows.

    Returns:
        The checkpoint's folder, `folder/round_NNNN`.

    Raises:
        RunError: The disk refuses.
    """
    final = folder / f"round_{state.round:04d}"
    temporary = folder / f".{final.name}.{os.getpid()}"
    try:
        for stale in folder.glob(".round_*"):
            _remove(stale)
        temporary.mkdir(parents=True)
        files = _tensors(state)
        _check_space(folder, sum(t.nbytes for tensors in files.values() for t in tensors.values()))
        for name, tensors in files.items():
            save_file(tensors, temporary / f"{name}.safetensors")
        about = {
            "round": state.round,
            "skipped": state.skipped,
            "weighting": state.components.weighting.state(),
            "objective": state.components.objective.state(),
            "schedules": state.components.schedules.state(),
            "scaler": state.scaler.state_dict(),
            "micro_batch": state.micro_batch,
            "computed": f"{state.device.type}, {state.precision}",
        }
        (temporary / "state.json").write_text(json.dumps(about))
        digests = {path.name: _digest(path) for path in sorted(temporary.iterdir())}
        (temporary / _MANIFEST).write_text(
            json.dumps({"round": state.round, "quality": quality, "sha256": digests}, indent=1)
        )
        for path in (*temporary.iterdir(), temporary):
            _flush(path)
        if _digests(final) == digests and _intact(final):
            # It is there already, as when a signal comes right after it was written. Removing it, to put the same in
            # its place, could lose it.
            (temporary / _MANIFEST).replace(final / _MANIFEST)
            shutil.rmtree(temporary)
        else:
            # What was there is damaged: this run went on from an older one.
            _discard(final)
            temporary.rename(final)
        _flush(folder)
    except (OSError, SafetensorError) as e:
        shutil.rmtree(temporary, ignore_errors=True)
        raise RunError(f"cannot write checkpoint {final}: {e}; those before it are whole, and resume uses them") from e
    forget_after(folder, final)
    best = best_round(folder)
    for old in _by_round(folder)[:-keep]:
        if round_of(old) != best:
            _discard(old)
    return final


def best_checkpoint(folder: Path) -> Path | None:
    """The intact checkpoint of the best quality, the oldest of several; None where none has any."""
    return next((candidate for candidate in _by_quality(folder) if _whole(candidate)), None)


def best_round(folder: Path) -> int | None:
    """The round of the best checkpoint, by the manifests alone."""
    return next((round_of(best) for best in _by_quality(folder)), None)


def round_of(checkpoint: Path) -> int:
    """The rounds that a checkpoint's run had done."""
    return int(checkpoint.name.removeprefix("round_"))


def forget_after(folder: Path, checkpoint: Path) -> None:
    """Remove the checkpoints that are newer than one of them, which thereby becomes the newest."""
    for newer in reversed(_by_round(folder)):
        if round_of(newer) <= round_of(checkpoint):
            break
        _discard(newer)


def newest_checkpoint(folder: Path) -> Path:
    """The newest checkpoint whose files match its manifest.

    Raises:
        UserError: There is none.
    """
    newest = next((candidate for candidate in reversed(_by_round(folder)) if _whole(candidate)), None)
    if newest:
        return newest
    raise UserError(f"no intact checkpoint in {folder}: nothing to go on from; start a new run")


def load_sampling_policy(policy: Policy, checkpoint: Path) -> None:
    """Give a policy the weights that a checkpoint's run samples from.

    Args:
        policy: Of the same backbone; changed in place.
        checkpoint: From `newest_checkpoint`.

    Raises:
        UserError: The checkpoint is of another model.
    """
    try:
        _copy(load_file(checkpoint / "sampling.safetensors"), policy.parameters())
    except _MISFITS as e:
        if is_out_of_memory(e):
            raise
        raise _misfit(checkpoint, e) from e


def load_checkpoint(state: State, checkpoint: Path) -> None:
    """Take back everything that `save_checkpoint` wrote.

    Args:
        state: A state that was started with the same components; changed in place.
        checkpoint: From `newest_checkpoint`.

    Raises:
        UserError: The checkpoint is of another model, or was computed on another kind of device.
    """
    try:
        about = json.loads((checkpoint / "state.json").read_text())
        here, there = f"{state.device.type}, {state.precision}", about["computed"]
        if there != here:
            raise UserError(f"{checkpoint} was computed on {there}, and this is {here}: resume it there")
        _restore(state, checkpoint, about)
    except _MISFITS as e:
        if is_out_of_memory(e):
            raise
        raise _misfit(checkpoint, e) from e


def _restore(state: State, checkpoint: Path, about: dict[str, Any]) -> None:
    device = str(state.device)
    policy = state.components.backbone.policy().parameters()
    _copy(load_file(checkpoint / "policy.safetensors", device), policy)
    _copy(load_file(checkpoint / "sampling.safetensors", device), dict(zip(policy, state.ema.average, strict=True)))
    stored = load_file(checkpoint / "training.safetensors", device)
    state.generator.set_state(stored.pop("generator").cpu())
    torch.set_rng_state(stored.pop("global_generator").cpu())
    kept = [name for name in stored if name.startswith(_MEMORY)]
    state.memory = {name.removeprefix(_MEMORY): stored.pop(name) for name in kept}
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in stored.items():
        index, key = name.split(".")
        # The optimiser keeps its step count on the CPU, and its averages in the parameters' memory format.
        parameter = state.ema.parameters[int(index)]
        value = tensor.cpu() if key == "step" else torch.empty_like(parameter, requires_grad=False).copy_(tensor)
        moments.setdefault(int(index), {})[key] = value
    state.optimizer.load_state_dict(state.optimizer.state_dict() | {"state": moments})
    state.components.weighting.load_state(about["weighting"])
    state.components.objective.load_state(about["objective"])
    state.components.schedules.load_state(about.get("schedules", {}))
    if state.scaler.is_enabled():
        state.scaler.load_state_dict(about["scaler"])
    state.round, state.skipped = about["round"], about["skipped"]
    # Where memory ran out, less than the configuration says: results depend in their last bits on it.
    state.micro_batch = about.get("micro_batch", state.micro_batch)


def _misfit(checkpoint: Path, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:200]
    return UserError(f"{checkpoint} is not a checkpoint of this model: {type(error).__name__}: {reason}")


def _tensors(state: State) -> dict[str, dict[str, Tensor]]:
    """What is saved, by file and name."""
    policy = state.components.backbone.policy().parameters()
    moments: dict[int, dict[str, Tensor]] = state.optimizer.state_dict()["state"]
    training = {f"{index}.{key}": value for index, entry in moments.items() for key, value in entry.items()}
    training |= {f"{_MEMORY}{name}": value for name, value in state.memory.items()}
    files: dict[str, dict[str, Any]] = {
        "policy": dict(policy),
        "sampling": dict(zip(policy, state.ema.average, strict=True)),
        "training": training | {"generator": state.generator.get_state(), "global_generator": torch.get_rng_state()},
    }
    return {f: {name: t.detach().contiguous() for name, t in tensors.items()} for f, tensors in files.items()}


@torch.no_grad()
def _copy(stored: dict[str, Tensor], into: Any) -> None:
    if stored.keys() != into.keys():
        raise ValueError(f"expected {len(into)} tensors, found {len(stored)} of other names")
    for name, tensor in stored.items():
        if tensor.shape != into[name].shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {tuple(into[name].shape)}")
        into[name].copy_(tensor)


def _by_round(folder: Path) -> list[Path]:
    """All checkpoints, oldest first."""
    found = [path for path in folder.glob("round_*") if path.name.removeprefix("round_").isdecimal()]
    return sorted(found, key=round_of)


def _by_quality(folder: Path) -> list[Path]:
    """All checkpoints of a known quality, the best first, of equal ones the oldest."""
    known = [(-quality, i, path) for i, path in enumerate(_by_round(folder)) if (quality := _quality(path)) is not None]
    return [path for *_, path in sorted(known)]


def _discard(checkpoint: Path) -> None:
    """Remove a checkpoint at once: half of one, its manifest included, could pass for the best."""
    gone = checkpoint.with_name(f".{checkpoint.name}.gone")
    _remove(gone)
    with suppress(OSError):
        checkpoint.rename(gone)
    _remove(gone)


def _remove(path: Path) -> None:
    """Remove a folder, or a file in the place of one."""
    shutil.rmtree(path, ignore_errors=True)
    with suppress(OSError):
        path.unlink()


def _check_space(folder: Path, needed: int) -> None:
    """See that there is room, before anything is written that would be lost."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(errno.ENOSPC, f"{needed / 2**20:.1f} MiB are needed, and {free / 2**20:.1f} MiB are free")


def _manifest(checkpoint: Path) -> dict[str, Any]:
    """What its manifest says; empty if nothing that can be read."""
    try:
        content = json.loads((checkpoint / _MANIFEST).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _quality(checkpoint: Path) -> float | None:
    quality: Any = _manifest(checkpoint).get("quality")
    # Larger than any float is no quality either; of a bool, only a person could have made one.
    known = type(quality) in (int, float) and -sys.float_info.max <= quality <= sys.float_info.max
    return float(quality) if known else None


def _digests(checkpoint: Path) -> dict[str, str]:
    """The SHA-256 of each file that its manifest lists; empty unless it lists exactly those of a checkpoint."""
    listed = _manifest(checkpoint).get("sha256")
    return listed if isinstance(listed, dict) and listed.keys() == _FILES else {}


def _whole(checkpoint: Path) -> bool:
    """Whether it can be used; says so where not."""
    if _intact(checkpoint):
        return True
    log.warning("%s is passed over: its files are not those of its manifest", checkpoint)
    return False


def _intact(checkpoint: Path) -> bool:
    digests = _digests(checkpoint)
    try:
        return bool(digests) and all(_digest(checkpoint / name) == digest for name, digest in digests.items())
    except OSError:
        return False


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
