"""A reward in an environment of its own answers as it would here: spec, options, scores, features, mistakes."""

import math
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch
from orwcfm_core.errors import RunError, UserError
from orwcfm_core.remote import RemotePlugin, is_environment
from orwcfm_core.reward import Reward, score
from pydantic import ValidationError
from remote_toy import environment, pid, points


def local(env: Path, module: str):
    """A module of the other environment, in this process."""
    file = next(env.glob(f"lib/python*/site-packages/{module}.py"))
    spec = spec_from_file_location(module, file)
    found = module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_the_spec_comes_from_there(env, plugin):
    spec, theirs = plugin.spec, local(env, "toy_plugin").orwcfm_rewards()[0]
    for field in ("name", "summary", "accepts", "value_range", "references", "api", "reads_prompts", "example"):
        assert getattr(spec, field) == getattr(theirs, field)
    assert not spec.differentiable
    assert (plugin.kind, plugin.name, plugin.dist, plugin.version) == ("reward", "toy", "orwcfm-reward-toy", "1.5")
    assert str(plugin) == f"reward 'toy' of orwcfm-reward-toy 1.5 in {env}"
    fields = spec.config.model_fields
    assert list(fields) == ["scale", "mode", "labels", "weights", "seen"]
    assert fields["scale"].description == "Factor."
    assert spec.config.model_json_schema()["properties"]["scale"]["exclusiveMinimum"] == 0


def test_options_are_completed_there_without_torch(plugin):
    config = plugin.spec.config.model_validate({"scale": "3", "labels": ["ä", "b"]})
    options = {"scale": 3.0, "mode": "exp", "labels": ["ä", "b"], "seen": ""}
    assert config.model_dump(mode="json", exclude_none=True) == options
    assert plugin.spec.config.model_validate(options) == config
    endless = plugin.spec.config.model_validate({"scale": "inf"}).model_dump(mode="json", exclude_none=True)
    assert endless["scale"] == math.inf


@pytest.mark.parametrize(
    "options",
    [{"scael": 1}, {"scale": -1}, {"scale": 13}, {"mode": "sin", "labels": [1]}, {"weights": ["x"]}],
    ids=lambda options: next(iter(options)),
)
def test_wrong_options_read_as_they_do_here(env, plugin, options):
    def errors(model):
        with pytest.raises(ValidationError) as caught:
            model.model_validate(options)
        return [{key: error[key] for key in ("loc", "type", "msg", "input")} for error in caught.value.errors()]

    assert errors(plugin.spec.config) == errors(local(env, "toy_plugin").Config)


@pytest.mark.parametrize(
    "images",
    [
        points(1),
        points(5).double(),
        points(4).bfloat16(),
        torch.rand(2, 3, 300, 200).to(memory_format=torch.channels_last),
        torch.rand(7, 5).T,
        torch.rand(5, 3, 9, 9)[::2, :, 1:],
    ],
    ids=["one", "double", "bfloat16", "large", "turned", "cut"],
)
@pytest.mark.parametrize("prompt", ["", "a boot, 日本語 \ud800"], ids=["empty", "unicode"])
def test_scores_and_features_are_those_of_this_process(env, reward, images, prompt):
    here = local(env, "toy_reward").Toy(local(env, "toy_plugin").Config())
    prompts, kept = [prompt, "bag", "a", "b", "c"][: len(images)], images.clone()
    state = torch.get_rng_state()
    there, there_features = reward.score(images, prompts), reward.features(images)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(images, kept)
    for mine, theirs in [(here.score(images, prompts).values, there.values), (here.features(images), there_features)]:
        assert mine.dtype == theirs.dtype
        assert torch.equal(mine, theirs)
    assert there.valid is None


def test_whether_there_are_features_is_known_from_there(env, reward):
    assert reward.has_features
    plugin = RemotePlugin("bare", str(env))
    bare = plugin.build(plugin.spec.config(), Reward)
    assert not bare.has_features
    assert bare.features(points()) is None
    bare.close()


def test_results_stay_when_the_memory_is_used_again(reward):
    before = reward.features(points(3))
    reward.features(points(30))
    assert torch.equal(before, points(3).cos())


def test_a_mask_comes_back(reward):
    values, valid = reward.score(points(9), ["mask"] * 9)
    assert torch.equal(values, points(9)[:, 0])
    assert torch.equal(valid, values > 0)


def test_moves_and_describes(env, reward):
    assert reward.to(torch.device("cpu")).describe() == f"toy of scale 2.0, in {env}"
    with pytest.raises(UserError, match=f"reward 'toy': in {env}: "):
        reward.to(torch.device("cuda:99"))
    assert pid(reward) > 0


def test_what_it_prints_does_no_harm(reward):
    before = pid(reward)
    assert torch.equal(reward.score(points(), ["print"] * 3).values, points()[:, 0])
    assert pid(reward) == before


def test_an_exception_ends_the_request_and_nothing_else(env, reward):
    before = pid(reward)
    for do, error, message in [
        ("raise broken", RunError, "ValueError: broken"),
        ("quit now", RunError, "SystemExit: now"),
        ("blame the user", UserError, "the user"),
        ("number 3", RunError, "returned a float, expected a tensor"),
    ]:
        with pytest.raises(error) as caught:
            score("toy", reward, points(), [do] * 3)
        assert str(caught.value) == f"reward 'toy': in {env}: {message}"
    assert pid(reward) == before


def test_an_exception_while_building_blames_the_plugin(env, plugin):
    with pytest.raises(UserError) as caught:
        plugin.build(plugin.spec.config(weights="w.safetensors"), Reward)
    blamed = "reward 'toy' of orwcfm-reward-toy 1.5: FileNotFoundError: no w.safetensors"
    assert str(caught.value) == f"in {env}: {blamed}"


def test_unknown_there(env):
    plugin = RemotePlugin("toyy", str(env))
    with pytest.raises(UserError) as caught:
        _ = plugin.spec
    assert str(caught.value) == f"in {env}: unknown reward 'toyy', did you mean 'toy'?"
    assert str(plugin) == f"reward 'toyy' in {env}"


def test_environments_that_cannot_serve(tmp_path, monkeypatch, plugin):
    site = environment(tmp_path / "env")
    python = tmp_path / "env" / "bin" / "python"

    def failure(where: Path) -> str:
        with pytest.raises(UserError) as caught:
            _ = RemotePlugin("toy", str(where)).spec
        return str(caught.value)

    start = f"cannot start reward 'toy' in {tmp_path / 'env'}: No module named orwcfm_core"
    assert failure(tmp_path / "env").startswith(f"{start}; install it there")
    assert failure(tmp_path / "env").endswith(f": {python} -m pip install orwcfm-core")
    assert failure(python).startswith(f"cannot start reward 'toy' in {python}: No module named orwcfm_core; ")
    (site / "orwcfm_core").mkdir()
    (site / "orwcfm_core" / "__init__.py").touch()
    assert failure(tmp_path / "env").startswith(f"{start}.worker; the orwcfm-core there is too old")
    assert "no Python interpreter at" in failure(tmp_path / "nowhere")
    old = tmp_path / "old"
    old.write_text("#!/bin/sh\necho 'Unknown option: -P' >&2\necho 'Try `python -h' >&2\nexit 2\n")
    old.chmod(0o755)
    assert failure(old) == f"cannot start reward 'toy' in {old}: its Python is older than 3.11, which orwcfm-core needs"
    monkeypatch.setattr("orwcfm_core.remote_process.PROTOCOL", 3)
    assert "has protocol 2, this one has 3; " in failure(plugin.environment.where)


def test_an_environment_is_told_from_a_distribution(env, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "orwcfm-reward-toy").mkdir()
    (tmp_path / "venv").symlink_to(env)
    assert is_environment("/path/to/venv")
    assert is_environment("~/venv")
    assert is_environment("venv")
    assert not is_environment("orwcfm-reward-toy")
    assert not is_environment("orwcfm-reward-other")
    assert RemotePlugin("toy", "venv").python == str(tmp_path / "venv")


def test_starts_without_torch():
    code = "import sys, orwcfm_core.remote; print({'torch', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
