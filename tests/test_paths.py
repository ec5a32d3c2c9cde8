"""Options that are paths lead to the same from any folder: a run keeps them, and may be resumed from elsewhere."""

from importlib import import_module

import pytest

PATHS = [
    ("orwcfm_backbone_torchcfm.plugin:Config", "weights", "folder"),
    ("orwcfm_backbone_unet.plugin:Config", "weights", "mine.safetensors"),
    ("orwcfm_backbone_sd3.plugin:Config", "model", "folder"),
    ("orwcfm_reward_classifier.plugin:Config", "model", "mine.safetensors"),
    ("orwcfm_reward_clip_score.plugin:Config", "model", "./folder"),
    ("orwcfm_reward_clip_score.plugin:Config", "model", "local-dir:folder"),
    ("orwcfm_reward_clip_score.plugin:Config", "pretrained", "mine.safetensors"),
    ("orwcfm_trainer_weighted.plugin:OfflineConfig", "data", "folder"),
    ("orwcfm_callback_trackio.plugin:Config", "folder", "folder"),
]
NAMES = [
    ("orwcfm_backbone_unet.plugin:Config", "weights", "mnist"),
    ("orwcfm_backbone_sd3.plugin:Config", "model", "stabilityai/stable-diffusion-3.5-medium"),
    ("orwcfm_reward_classifier.plugin:Config", "model", "mnist"),
    ("orwcfm_reward_clip_score.plugin:Config", "model", "ViT-B-32"),
    ("orwcfm_reward_clip_score.plugin:Config", "pretrained", "laion2b_s34b_b79k"),
    ("orwcfm_trainer_weighted.plugin:OfflineConfig", "data", None),
    ("orwcfm_callback_trackio.plugin:Config", "folder", None),
]


def kept(config, option, value):
    module, _, name = config.partition(":")
    return getattr(getattr(import_module(module), name)(**{option: value}), option)


@pytest.mark.parametrize(("config", "option", "value"), PATHS)
def test_a_relative_path_is_kept_as_an_absolute_one(config, option, value, tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    assert str(kept(config, option, value)) == str(tmp_path / value.removeprefix("local-dir:"))


@pytest.mark.parametrize(("config", "option", "value"), NAMES)
def test_a_name_stays_one(config, option, value, tmp_path, monkeypatch):
    (tmp_path / "mnist").mkdir()
    monkeypatch.chdir(tmp_path)
    assert kept(config, option, value) == value
