"""Reads a Stable Diffusion 3 pipeline by its name on the hub or from a folder; from safetensors alone."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError
from orwcfm_core.errors import UserError
from safetensors import SafetensorError
from transformers import CLIPTextModelWithProjection, CLIPTokenizer, T5EncoderModel, T5Tokenizer
from transformers.utils import find_adapter_config_file

__all__ = ["load_pipeline"]

_CLASSES = {
    "scheduler": FlowMatchEulerDiscreteScheduler,
    "tokenizer": CLIPTokenizer,
    "tokenizer_2": CLIPTokenizer,
    "tokenizer_3": T5Tokenizer,
    "text_encoder": CLIPTextModelWithProjection,
    "text_encoder_2": CLIPTextModelWithProjection,
    "text_encoder_3": T5EncoderModel,
    "transformer": SD3Transformer2DModel,
    "vae": AutoencoderKL,
}
_T5 = ("tokenizer_3", "text_encoder_3")

_FOREIGN = (OSError, ValueError, ImportError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError)
"""What diffusers, transformers and the hub raise where a model is missing, incomplete or another one."""

_CAUSES = {
    GatedRepoError: "accept its licence at https://huggingface.co/{}, then log in with 'hf auth login'",
    RepositoryNotFoundError: "there is no such folder or public model; if it is a private one, 'hf auth login' first",
    LocalEntryNotFoundError: "there is no such folder or earlier download, and the hub cannot be reached",
    EntryNotFoundError: "it has no model_index.json, which a model in diffusers' format begins with",
}
"""What to say of the hub's own errors; a class comes before those that it is derived from."""


def load_pipeline(model: str, dtype: torch.dtype, t5: bool) -> StableDiffusion3Pipeline:
    """Read all components, frozen.

    Classes are ours to choose, not the model's; pickled weights are refused unread.

    Args:
        model: A name on the hub, or a folder in diffusers' format.
        dtype: Of the transformer and the text encoders. The VAE stays in float32: rewards see its pixels, and bf16
            has no more levels than a picture has.
        t5: Whether to load the third text encoder; a model may be without.

    Raises:
        UserError: There is no such model, or it is no complete Stable Diffusion 3.
    """
    try:
        # Small, and read first: most mistakes show here, before gigabytes are on their way.
        index = _read_index(model)
        kind = _class_of(index, "transformer")
        if kind != SD3Transformer2DModel.__name__:
            raise ValueError(f"it is a {index.get('_class_name', 'model')} whose transformer is {kind or 'missing'}")
        unused = () if t5 and _class_of(index, "text_encoder_3") else _T5
        wanted = [name for name in _CLASSES if name not in unused]
        missing = [name for name in wanted if Path(model).is_dir() and not Path(model, name).is_dir()]
        if missing:
            raise ValueError(f"it has no folder {', '.join(missing)}")
        parts = {name: _load(model, name, torch.float32 if name == "vae" else dtype) for name in wanted}
        return StableDiffusion3Pipeline(**parts, **dict.fromkeys(unused))
    except _FOREIGN as e:
        raise UserError(
            f"backbone.model: expected a Stable Diffusion 3 model on the Hugging Face hub, or a folder in diffusers' "
            f"format with weights in safetensors, got '{model}': {_reason(model, e)}"
        ) from e


def _read_index(model: str) -> dict[str, Any]:
    """What a model says of its components: their libraries and classes by name."""
    if Path(model).is_dir():
        file = Path(model, "model_index.json")
    elif re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", model):
        file = Path(hf_hub_download(model, "model_index.json"))
    else:
        raise ValueError("there is no such folder, and the name of a model on the hub is OWNER/NAME")
    index = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(index, dict):
        raise ValueError(f"{file.name} holds no table")
    return index


def _load(model: str, name: str, dtype: torch.dtype) -> Any:
    """A component, frozen if it is a network."""
    kind: Any = _CLASSES[name]
    if not issubclass(kind, torch.nn.Module):
        part = kind.from_pretrained(model, subfolder=name)
        if name.startswith("tokenizer"):
            _check_vocabulary(name, part)
        return part
    # transformers would put it on top by itself, from a pickle if need be.
    if name.startswith("text_encoder") and find_adapter_config_file(model, subfolder=name):
        raise ValueError(f"{name} comes with an adapter")
    network, found = kind.from_pretrained(
        model, subfolder=name, dtype=dtype, use_safetensors=True, output_loading_info=True
    )
    # Both libraries go on with random values for tensors that a file lacks.
    if found["missing_keys"]:
        raise ValueError(f"{name} has no {min(found['missing_keys'])}")
    return network.eval().requires_grad_(False)


def _check_vocabulary(name: str, tokenizer: Any) -> None:
    """Refuse the empty tokenizer that transformers makes up where files are missing."""
    letter = tokenizer("a", add_special_tokens=False).input_ids
    if not letter or tokenizer.unk_token_id in letter:
        raise ValueError(f"{name} has no vocabulary")


def _class_of(index: dict[str, Any], component: str) -> str | None:
    """Name of a component's class in a pipeline's index, None if it has none."""
    entry = index.get(component)
    return entry[1] if isinstance(entry, list | tuple) and len(entry) == 2 else None


def _reason(model: str, error: Exception) -> str:
    """What was wrong and what to do, in one line."""
    for kind, text in _CAUSES.items():
        if isinstance(error, kind):
            return text.format(model)
    return f"{' '.join(str(error).split())[:300]}; check the name, or that the folder is complete"
