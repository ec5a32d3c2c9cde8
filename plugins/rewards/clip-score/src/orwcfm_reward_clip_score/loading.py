"""Finds a CLIP and its weights: in a folder, among what comes along, in the cache, on the network."""

from __future__ import annotations

import difflib
import logging
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import huggingface_hub
import open_clip
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError
from open_clip.factory import load_checkpoint
from orwcfm_core.errors import UserError
from safetensors import SafetensorError
from torch import Tensor, nn

__all__ = ["SMALL", "Loaded", "load"]

SMALL = Path(__file__).parent / "models" / "small"
"""Folder of the model that comes along."""

_DEFAULTS = {"ViT-B-32": "laion2b_s34b_b79k"}
_CONFIG = "open_clip_config.json"
_WEIGHTS = "open_clip_model.safetensors"
_TIMEOUT = 5
"""Seconds for which the hub is waited for."""


class Loaded(NamedTuple):
    """A model that is ready for use.

    Args:
        name: For the user.
        model: Frozen, in `eval()` mode, with open_clip's `encode_image`, `encode_text` and `logit_bias`.
        tokenizer: Texts to tokens, `(B, L)`.
    """

    name: str
    model: Any
    tokenizer: Callable[[Sequence[str]], Tensor]


def load(model: str, pretrained: str | None) -> Loaded:
    """Build a model and read its weights, from safetensors only.

    Args:
        model: `small`, a name that open_clip knows, or a folder with open_clip_config.json and a .safetensors file.
        pretrained: For a name: open_clip's tag of its weights, or a .safetensors file.

    Raises:
        UserError: There is no such model, or its weights cannot be had.
    """
    known = model.replace("/", "-")
    if model == "small" or known not in open_clip.list_models():
        if pretrained is not None:
            raise UserError(
                f"pretrained: model '{model}' brings its own weights; leave this option out, or set model to another, "
                "such as ViT-B-32"
            )
        folder = SMALL if model == "small" else _folder(model)
        weights = _weights_in(folder)
        return _build(f"open_clip model {model}", f"local-dir:{folder}", weights, {}, False)
    tag = pretrained or _DEFAULTS.get(known)
    tags = open_clip.list_pretrained_tags_by_model(known)
    if tag is None:
        raise UserError(f"pretrained: say which weights of '{known}': {', '.join(tags) or 'a .safetensors file'}")
    about = open_clip.get_pretrained_cfg(known, tag)
    if about:
        weights = _download(known, tag, about)
    elif Path(tag).suffix:
        weights = _safe_file(Path(tag).expanduser())
    else:
        raise UserError(f"pretrained: unknown weights '{tag}' of '{known}'{_close(tag, tags)}")
    return _build(f"open_clip model {known} ({tag})", known, weights, about, bool(about.get("quick_gelu")))


def _build(name: str, source: str, weights: Path, preprocessing: dict[str, Any], quick_gelu: bool) -> Loaded:
    with _quiet():
        try:
            model = open_clip.create_model(
                source,
                load_weights=False,
                pretrained_text=False,
                force_quick_gelu=quick_gelu,
                force_preprocess_cfg=preprocessing,
            )
            tokenizer = open_clip.get_tokenizer(source)
            load_checkpoint(model, str(weights))
        except (KeyError, TypeError, ValueError, RuntimeError, OSError, SafetensorError) as e:
            reason = " ".join(str(e).split())
            raise UserError(f"{weights}: cannot be read as {name}: {type(e).__name__}: {reason[:200]}") from e
    assert isinstance(model, nn.Module)
    return Loaded(name, model.eval().requires_grad_(False), tokenizer)


def _folder(model: str) -> Path:
    """The folder that `model` names."""
    folder = Path(model.removeprefix("local-dir:")).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_file() or folder.suffix in (".bin", ".pt", ".pth", ".safetensors"):
        raise UserError(f"model: expected a folder with {_CONFIG} and {_WEIGHTS}, got the file {model}")
    if len(folder.parts) > 1 or folder.is_absolute():
        raise UserError(f"model: there is no folder {model}")
    names = ["small", *open_clip.list_models()]
    raise UserError(f"model: neither an open_clip model nor a folder: '{model}'{_close(model, names)}")


def _close(name: str, names: Sequence[str]) -> str:
    lower = {known.lower(): known for known in names}
    close = difflib.get_close_matches(name.lower(), list(lower), n=3, cutoff=0.5)
    return f", did you mean {' or '.join(lower[match] for match in close)}?" if close else ""


def _weights_in(folder: Path) -> Path:
    """The .safetensors file of a folder in open_clip's format."""
    if not (folder / _CONFIG).is_file():
        raise UserError(f"{folder}: there is no {_CONFIG} in this folder")
    found = sorted(folder.glob("*.safetensors"), key=lambda file: (file.name != _WEIGHTS, file.name))
    if not found:
        raise UserError(
            f"{folder}: there is no .safetensors file in this folder; weights in other formats are not read"
        )
    return found[0]


def _safe_file(path: Path) -> Path:
    if path.suffix != ".safetensors":
        raise UserError(f"pretrained: only .safetensors files are read, for others may run code; got {path}")
    if not path.is_file():
        raise UserError(f"pretrained: there is no file {path}")
    return path


def _download(model: str, tag: str, about: dict[str, Any]) -> Path:
    """Weights of a tag: from the cache, else from the network, which is tried once and not for long."""
    repository, _, file = about.get("hf_hub", "").rpartition("/")
    file = Path(file).with_suffix(".safetensors").name if file else _WEIGHTS
    if not repository:
        raise UserError(f"pretrained: weights '{tag}' of '{model}' are not published as safetensors")
    try:
        return Path(huggingface_hub.hf_hub_download(repository, file, local_files_only=True))
    except LocalEntryNotFoundError:
        pass
    problem = _unreachable()
    if problem is None:
        try:
            with _quiet():
                return Path(huggingface_hub.hf_hub_download(repository, file, etag_timeout=_TIMEOUT))
        except LocalEntryNotFoundError:
            problem = "the connection broke"
        except EntryNotFoundError as e:
            raise UserError(f"pretrained: weights '{tag}' of '{model}' are not published as safetensors") from e
        except (HfHubHTTPError, OSError) as e:
            problem = " ".join(str(e).split())[:120]
    command = f"from huggingface_hub import hf_hub_download as get; get('{repository}', '{file}')"
    raise UserError(
        f"the weights '{tag}' of '{model}' are not in the cache and cannot be downloaded ({problem}): run "
        f'`python -c "{command}"` on a machine with a network and copy its cache folder, or set model to a '
        "local open_clip folder, or use the model that comes along, model=small"
    )


def _unreachable() -> str | None:
    """Why the hub cannot be reached, or None; its own client would try again for half a minute."""
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        request = urllib.request.Request(huggingface_hub.constants.ENDPOINT, method="HEAD")
        urllib.request.urlopen(request, timeout=_TIMEOUT).close()
    except urllib.error.HTTPError:
        return None
    except OSError as e:
        return f"no network: {getattr(e, 'reason', e)}"
    return None


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings and log lines of open_clip and the hub: what matters is raised."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
