"""What a light module or command may bring with it."""

import json
import os
import re
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
from orwcfm_core.testing import FakeDistribution

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "torchvision", "numpy", "scipy", "PIL", "open_clip", "diffusers", "transformers", "peft", "wandb")
# What every light module may import is imported once; then each module has a copy of the process to itself.
FORK = """
import json, os, sys
import click, pydantic, pluggy, orwcfm_core.registry
heavy = {heavy!r}
assert not [name for name in heavy if name in sys.modules]
for module in {modules!r}:
    if not os.fork():
        __import__(module)
        print(json.dumps([module, [name for name in heavy if name in sys.modules]]), flush=True)
        os._exit(0)
    assert os.wait()[1] == 0, module
"""


def patterns() -> list[str]:
    """Files that may import torch at the top: what ruff is told."""
    ignores = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]["per-file-ignores"]
    found = []
    for pattern, rules in ignores.items():
        before, choices, after = re.fullmatch(r"([^{]*)(?:\{(.*)\})?(.*)", pattern).groups()
        if "TID253" in rules:
            found += [f"{before}{choice}{after}" for choice in (choices or "").split(",")]
    return found


def light_modules() -> list[str]:
    """All modules of the core and the command line that start without torch, and each plugin's."""
    heavy = patterns()
    files = [file for package in ("orwcfm_core/src", "cli/src") for file in (ROOT / package).rglob("*.py")]
    files += ROOT.glob("plugins/*/*/src/*/plugin.py")
    names = [file.relative_to(ROOT).as_posix() for file in files if "templates" not in file.parts]
    light = [name for name in names if not any(fnmatch(name, pattern) for pattern in heavy)]
    return sorted(name.partition("src/")[2].removesuffix(".py").replace("/", ".") for name in light)


def test_light_modules_do_not_import_heavy_ones():
    modules = [module.removesuffix(".__init__") for module in light_modules()]
    assert {"orwcfm_core.registry", "orwcfm_core.events", "orwcfm_cli.plugins", "orwcfm_reg_w2.plugin"} <= {*modules}
    code = FORK.format(heavy=HEAVY, modules=modules)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    brought = dict(map(json.loads, done.stdout.splitlines()))
    assert brought == {module: [] for module in modules}


@pytest.mark.parametrize(
    "args",
    [
        ["--help"],
        ["run", "--help"],
        ["run", "--print-config"],
        ["plugins", "list"],
        ["plugins", "show", "reward", "clip-score"],
    ],
    ids=" ".join,
)
def test_light_commands_start_without_torch(args):
    code = (
        "import sys; from orwcfm_cli.main import cli\n"
        f"cli({args!r}, standalone_mode=False)\n"
        f"print([name for name in {(*HEAVY, 'rich')!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_fifteen_distributions_are_listed_with_nothing_but_what_the_registry_needs(tmp_path):
    """What makes `plugins list` short; its time is in benchmarks/startup.py."""
    light = (ROOT / "plugins/rewards/jpeg/src/orwcfm_reward_jpeg/plugin.py").read_text()
    fakes = [f"fake-{i}" for i in range(15)]
    for name in fakes:
        module = name.replace("-", "_")
        source = light.replace("jpeg-compressibility", name)
        FakeDistribution(tmp_path, name, {"reward": {name: module}}, {f"{module}.py": source})
    code = (
        "import sys; before = {*sys.modules}\n"
        "from orwcfm_cli.main import cli\n"
        "cli(['plugins', 'list'], standalone_mode=False)\n"
        "brought = {name.partition('.')[0] for name in {*sys.modules} - before} - sys.stdlib_module_names\n"
        "print(*(name for name in brought if name[0] != '_'))"
    )
    env = {**os.environ, "PYTHONPATH": str(tmp_path), "ORWCFM_PLUGINS": ",".join(fakes)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    *listed, brought = done.stdout.splitlines()
    assert len(listed) == 16
    assert "broken" not in done.stdout
    modules = {name.replace("-", "_") for name in fakes}
    pydantic = {"pydantic", "pydantic_core", "annotated_types", "typing_extensions", "typing_inspection"}
    assert {*brought.split()} == {"orwcfm_core", "orwcfm_cli", "click", "packaging", "pluggy", *pydantic, *modules}
