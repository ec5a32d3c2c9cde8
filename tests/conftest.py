"""Helpers for tests that use the command line as a user does: in a process of its own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from commandline import ORWCFM


@pytest.fixture
def orwcfm(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Call the command line in an empty folder and return what it did."""

    def call(*args: object, code: int = 0, timeout: int = 300, **env: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [ORWCFM, *map(str, args)],
            cwd=tmp_path,
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done

    return call


@pytest.fixture
def plugin(tmp_path: Path) -> Callable[[str, str], dict[str, str]]:
    """Put a distribution with one reward on the path of a child process, as if it were installed."""

    def make(name: str, body: str) -> dict[str, str]:
        site = tmp_path / f"site-{name}"
        module = name.replace("-", "_")
        info = site / f"{module}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[orwcfm.rewards]\n{name} = {module}_plugin\n")
        (site / f"{module}_plugin.py").write_text(
            "from orwcfm_core.plugin import ComponentConfig, RewardSpec, hookimpl\n"
            "@hookimpl\n"
            "def orwcfm_rewards():\n"
            f"    return [RewardSpec(name='{name}', summary='A test.', config=ComponentConfig, "
            f"factory='{module}_reward:Reward')]\n"
        )
        (site / f"{module}_reward.py").write_text(
            "import torch\n"
            "from orwcfm_core import reward\n"
            "from orwcfm_core.reward import Scores\n"
            "class Reward(reward.Reward):\n"
            "    def __init__(self, config):\n"
            "        pass\n"
            "    def score(self, images, prompts):\n"
            f"        {body}\n"
        )
        return {"PYTHONPATH": str(site)}

    return make
