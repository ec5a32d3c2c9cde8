"""Wheels of some distributions, installed alone: what they need is inside them, and the others are not missed."""

import json
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CHOSEN = ("orwcfm_core", "cli", "plugins/backbones/unet", "plugins/regularizers/w2", "plugins/rewards/jpeg")


@pytest.fixture(scope="module")
def clean(tmp_path_factory) -> Path:
    """An environment with the chosen wheels and this one's third-party packages, but nothing else of the project's."""
    folder = tmp_path_factory.mktemp("clean")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", "wheels"]
    subprocess.run([*build, *(str(ROOT / dist) for dist in CHOSEN)], cwd=folder, check=True)
    venv.create(folder / "env", with_pip=False, symlinks=True)
    here = Path(sysconfig.get_path("purelib"))
    there = next((folder / "env" / "lib").glob("python*/site-packages"))
    for package in here.iterdir():
        if "orwcfm" not in package.name and not package.name.startswith(("open_clip", "torchvision", "pip")):
            (there / package.name).symlink_to(package)
    install = [sys.executable, "-m", "pip", "--python", str(folder / "env" / "bin" / "python"), "install", "--quiet"]
    wheels = sorted(str(wheel) for wheel in (folder / "wheels").iterdir())
    subprocess.run([*install, "--no-deps", "--no-index", *wheels], check=True)
    return folder


@pytest.mark.slow
def test_chosen_wheels_run_without_the_others(clean):
    orwcfm = clean / "env" / "bin" / "orwcfm"
    listed = subprocess.run([orwcfm, "plugins", "list", "--json"], capture_output=True, text=True, check=True)
    names = {row["name"] for row in json.loads(listed.stdout)}
    assert names == {"unet", "w2", "jpeg-compressibility", "jpeg-incompressibility", "orw-cfm"}
    small = ["--rounds", "1", "--set", "train.samples=8", "--set", "sampler.steps=2"]
    run = subprocess.run(
        [orwcfm, "run", "--reward", "jpeg-compressibility", "--reg", "w2", "--alpha", "0.1", *small, "--out", "run"],
        cwd=clean,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert (clean / "run" / "report.html").exists()
    missing = subprocess.run([orwcfm, "run", "--reward", "clip-score"], capture_output=True, text=True)
    assert missing.returncode == 2
    assert "unknown reward 'clip-score'" in missing.stderr
