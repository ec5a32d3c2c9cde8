"""Environments with wheels of this project, and of everything else only what these require."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tomllib
import venv
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
DISTS = {
    tomllib.loads(file.read_text())["project"]["name"]: file.parent
    for pattern in ("orwcfm_core", "cli", "plugins/*/*")
    for file in sorted(ROOT.glob(f"{pattern}/pyproject.toml"))
}
"""Folder of each of our distributions."""
TOOLS = ("editables", "hatchling", "pytest")
"""What builds and tests a plugin."""
ALONE = {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
"""Makes pip install from here alone: no index, and hatchling from the environment (pip reads 0 as no isolation)."""


class Environment:
    """An environment beside this one: third-party packages are links to this one's.

    Args:
        folder: Where it is made.
        links: Names of the third-party distributions that are linked.
    """

    def __init__(self, folder: Path, links: Iterable[str]) -> None:
        venv.create(folder, with_pip=False, symlinks=True)
        self.bin = folder / "bin"
        self.python = self.bin / "python"
        self.site = next((folder / "lib").glob("python*/site-packages"))
        for name in links:
            for top in _tops(distribution(name)):
                if not (self.site / top.name).exists():
                    (self.site / top.name).symlink_to(top)

    def pip(self, *args: object, cwd: Path | None = None) -> str:
        """Call pip on it, without an index."""
        pip = [sys.executable, "-m", "pip", "--python", str(self.python), *map(str, args)]
        return run(pip, cwd=cwd, **ALONE)

    def add_pip(self) -> None:
        """Put a `pip` among its programs, this environment's one."""
        script = self.bin / "pip"
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m pip --python "{self.python}" "$@"\n')
        script.chmod(0o755)

    def __call__(self, *args: object, cwd: Path, code: int = 0, **env: str) -> str:
        """Call one of its programs and return what it printed."""
        return run([str(self.bin / str(args[0])), *map(str, args[1:])], cwd, code, **env)


def run(command: Sequence[str], cwd: Path | None = None, code: int = 0, **env: str) -> str:
    """Call a program, expect its exit code, and return what it printed."""
    # Neither this environment's modules nor its plugins may reach the other one.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "ORWCFM"))}
    done = subprocess.run(
        command, cwd=cwd, env={**inherited, **env}, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert done.returncode == code, f"{command}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def build_wheels(factory: pytest.TempPathFactory) -> Path:
    """A folder with a wheel of each of our distributions; built once per session."""
    folder = factory.getbasetemp() / "wheels"
    if not folder.exists():
        build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder)]
        run([*build, *map(str, DISTS.values())], **ALONE)
    return folder


def environment_with(factory: pytest.TempPathFactory, names: Sequence[str], tools: Sequence[str] = ()) -> Environment:
    """An environment with our wheels of these names, what they require, and some tools.

    Args:
        factory: Where it may be made.
        names: Names of our distributions.
        tools: Names of third-party distributions.
    """
    wheels = build_wheels(factory)
    chosen = [next(wheels.glob(f"{name.replace('-', '_')}-[0-9]*.whl")) for name in names]
    required = {line for wheel in chosen for dist in distributions(path=[str(wheel)]) for line in dist.requires or []}
    environment = Environment(factory.mktemp("environment"), closure([*required, *tools]))
    environment.pip("install", "--quiet", "--no-deps", *chosen)
    return environment


def third_party() -> set[str]:
    """Names of all distributions here that are not ours."""
    names = {canonicalize_name(dist.name) for dist in distributions()}
    return {name for name in names if not name.startswith("orwcfm") and name != "pip"}


def closure(requirements: Iterable[str]) -> set[str]:
    """Names of what these require, directly or not, of what is installed here and is not ours."""
    found: dict[str, set[str]] = {}
    todo = [Requirement(line) for line in requirements]
    while todo:
        requirement = todo.pop()
        name, extras = canonicalize_name(requirement.name), {"", *requirement.extras}
        if name.startswith("orwcfm") or extras <= found.get(name, set()):
            continue
        try:
            lines = distribution(name).requires or []
        except PackageNotFoundError:
            continue
        found[name] = found.get(name, set()) | extras
        todo += [r for r in map(Requirement, lines) if _applies(r, found[name])]
    return set(found)


def _applies(requirement: Requirement, extras: set[str]) -> bool:
    return requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in extras)


def _tops(dist: Distribution) -> Iterator[Path]:
    """Files and folders in site-packages that a distribution consists of."""
    site = Path(sysconfig.get_path("purelib"))
    for name in {file.parts[0] for file in dist.files or []}:
        if name not in ("..", "__pycache__", "bin") and (site / name).exists():
            yield site / name
