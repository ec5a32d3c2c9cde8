"""Whatever plugins print, standard output holds the results of a command and nothing else."""

import json
import os
import pty
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from commandline import ORWCFM, SMALL
from orwcfm_core.testing import FakeDistribution

LOUD = """
import atexit, ctypes, os, subprocess, sys

def shout():
    print("python")
    sys.stdout.write("stream\\n")
    sys.stdout.buffer.write(b"buffer\\n")
    os.write(1, b"descriptor\\n")
    ctypes.CDLL(None).puts(b"library")
    ctypes.CDLL(None).fflush(None)
    subprocess.run(["echo", "child"])

shout()
atexit.register(shout)
"""
LIGHT = """
from loud_noise import shout
from orwcfm_core.plugin import ComponentConfig, RewardSpec, hookimpl

@hookimpl
def orwcfm_rewards():
    shout()
    return [RewardSpec(name="loud", summary="A test.", config=ComponentConfig, factory="loud_reward:Loud",
        reads_prompts=False, differentiable=True)]
"""
REWARD = """
from loud_noise import shout
from orwcfm_core.reward import Reward, Scores

class Loud(Reward):
    def __init__(self, config):
        shout()

    def score(self, images, prompts):
        shout()
        return Scores(images.nan_to_num(0).flatten(1).mean(1))
"""
SAID = {"python", "stream", "buffer", "descriptor", "library", "child"}


@pytest.fixture
def loud(tmp_path):
    """The environment in which a reward is installed that prints in every way, all the time."""
    modules = {"loud_noise.py": LOUD, "loud_light.py": LIGHT, "loud_reward.py": REWARD}
    return FakeDistribution(tmp_path / "site", "dist-loud", {"reward": {"loud": "loud_light"}}, modules).env()


def test_results_stay_readable_by_a_program(orwcfm, loud):
    listed = orwcfm("plugins", "list", "--json", **loud)
    assert "loud" in {row["name"] for row in json.loads(listed.stdout)}
    assert set(listed.stderr.split()) >= SAID
    assert json.loads(orwcfm("plugins", "show", "reward", "loud", "--json", **loud).stdout)["name"] == "loud"
    checked = json.loads(orwcfm("plugins", "check", "reward", "loud", "--json", **loud).stdout)
    assert {row["status"] for row in checked} == {"passed", "skipped"}
    config = orwcfm("run", "--reward", "loud", "--print-config", **loud).stdout
    assert tomllib.loads(config)["reward"]["name"] == "loud"
    done = orwcfm("run", "--reward", "loud", *SMALL, "--json", "--out", "run", **loud)
    assert json.loads(done.stdout)["samples"] > 0
    assert set(done.stderr.split()) >= SAID


def test_a_plugin_may_replace_standard_output(orwcfm, tmp_path):
    light = "import io, sys\nsys.stdout = sys.__stdout__ = io.StringIO()\nfrom loud_light_too import orwcfm_rewards\n"
    modules = {"loud_light.py": light, "loud_light_too.py": LIGHT.replace("shout()", ""), "loud_noise.py": "shout = 1"}
    env = FakeDistribution(tmp_path / "site", "dist-loud", {"reward": {"loud": "loud_light"}}, modules).env()
    assert len(json.loads(orwcfm("plugins", "list", "--json", **env).stdout)) > 1


def test_results_keep_encoding_and_terminal(tmp_path, loud):
    env = {**os.environ, **loud, "ORWCFM_PLUGINS": "loud", "COLUMNS": "60"}
    command = [ORWCFM, "plugins", "list"]
    done = subprocess.run(command, env={**env, "PYTHONIOENCODING": "utf-16-le"}, capture_output=True, check=True)
    assert "A test." in done.stdout.decode("utf-16-le")
    assert terminal_output(command, {**env, "ORWCFM_PLUGINS": "w2"})[0].rstrip().endswith("…")
    # What the terminal's encoding lacks is written by its number.
    plain = {**env, "ORWCFM_PLUGINS": "w2", "PYTHONIOENCODING": "ascii"}
    assert terminal_output(command, plain)[0].rstrip().endswith("\\u2026")


def test_other_encodings_and_names_of_folders_do_no_harm(tmp_path):
    prompt = "reward.prompt=ein Mädchen mit Schuh"
    config = subprocess.run(
        [ORWCFM, "run", "--reward", "jpeg-compressibility", "--set", prompt, "--print-config"], capture_output=True
    ).stdout
    (tmp_path / "run.toml").write_bytes(config)
    latin = {**os.environ, "PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}
    command = [ORWCFM, "run", "--config", "run.toml", "--print-config", "--json"]
    found = subprocess.run(command, cwd=tmp_path, env=latin, capture_output=True, check=True).stdout
    assert json.loads(found)["reward"]["prompt"] == ["ein Mädchen mit Schuh"]
    command = [ORWCFM, "run", "--backbone", "gmm", "--reward", "component", "--rounds", "1", "--out", b"run\xff"]
    subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
    assert (Path(os.fsdecode(os.fsencode(tmp_path) + b"/run\xff")) / "report.html").is_file()


def terminal_output(command, env):
    """Lines that a command writes to a terminal."""
    ours, theirs = pty.openpty()
    done = subprocess.run(command, env=env, stdout=theirs, stderr=subprocess.DEVNULL)
    os.close(theirs)
    assert done.returncode == 0
    with open(ours, "rb", buffering=0) as file:
        return sorted(file.read(100_000).decode().splitlines())[-1:]


@pytest.mark.parametrize("args", [["plugins", "list", "--json"], ["run", "--reward", "loud", "--print-config"]])
def test_a_reader_that_goes_away_is_no_mistake(loud, args):
    process = subprocess.Popen(
        [ORWCFM, *args], env={**os.environ, **loud}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()
    said = process.stderr.read()
    assert process.wait() == 1
    assert set(said.split()) == SAID


@pytest.mark.parametrize("closed", ["1", "2"])
def test_a_closed_stream_is_no_mistake(tmp_path, loud, closed):
    script = f'exec "{sys.executable}" "{ORWCFM}" plugins list --kind reg {closed}>&-'
    done = subprocess.run(["sh", "-c", script], env={**os.environ, **loud}, capture_output=True, text=True)
    assert done.returncode == 0
    assert ("regularizer" in done.stdout) == (closed == "2")
