"""Wheels of our distributions: each brings what it needs, none misses the others, and all extras resolve."""

import json
import tomllib

import pytest
from environments import DISTS, ROOT, Environment, build_wheels, environment_with, third_party
from packaging.requirements import Requirement

CHOSEN = ("orwcfm-core", "orwcfm", "orwcfm-backbone-unet", "orwcfm-reg-w2", "orwcfm-reward-jpeg")
HEAVY = ("open_clip", "torchvision", "diffusers", "peft", "transformers", "tensorboard", "wandb", "trackio", "timm")
EXTRAS = tomllib.loads((ROOT / "cli" / "pyproject.toml").read_text())["project"]["optional-dependencies"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """An environment with the chosen wheels and what they require, but nothing else."""
    return environment_with(tmp_path_factory, CHOSEN)


def test_chosen_wheels_run_without_the_others(clean, tmp_path):
    names = {row["name"] for row in json.loads(clean("orwcfm", "plugins", "list", "--json", cwd=tmp_path))}
    assert names == {"unet", "w2", "jpeg-compressibility", "jpeg-incompressibility", "orw-cfm"}
    chosen = ("--reward", "jpeg-compressibility", "--reg", "w2", "--alpha", "0.1")
    small = ("--rounds", "1", "--set", "train.samples=8", "--set", "sampler.steps=2")
    clean("orwcfm", "run", *chosen, *small, "--out", "run", cwd=tmp_path)
    assert (tmp_path / "run" / "report.html").exists()
    clean("orwcfm", "run", "--reward", "clip-score", cwd=tmp_path, code=2)


def test_only_what_is_needed_comes_along(clean, tmp_path):
    look = f"from importlib.util import find_spec; print([name for name in {HEAVY} if find_spec(name)])"
    assert clean("python", "-c", look, cwd=tmp_path).strip() == "[]"


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """An environment with everything that is installed here but ours."""
    return Environment(tmp_path_factory.mktemp("bare"), third_party())


@pytest.mark.parametrize("extra", sorted(EXTRAS))
def test_extras_resolve(bare, tmp_path_factory, extra):
    wheels = build_wheels(tmp_path_factory)
    report = bare.pip("install", "--quiet", "--dry-run", "--report", "-", "--find-links", wheels, f"orwcfm[{extra}]")
    found = {item["metadata"]["name"] for item in json.loads(report)["install"]}
    assert found == {"orwcfm", "orwcfm-core", *brought(extra)}


def test_every_plugin_is_in_an_extra():
    plugins = DISTS.keys() - {"orwcfm", "orwcfm-core"}
    assert set().union(*map(brought, EXTRAS)) == plugins


def brought(extra):
    """Our plugins that an extra brings."""
    requirements = map(Requirement, EXTRAS[extra])
    return {name for r in requirements for name in (set().union(*map(brought, r.extras)) if r.extras else {r.name})}
