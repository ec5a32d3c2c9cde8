"""`orwcfm new`: a distribution that works as it is written, for its author to change."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

import click
from orwcfm_core.errors import UserError

__all__ = ["core_range", "new", "render", "write"]


@dataclass(frozen=True)
class _Kind:
    """What differs between kinds besides their templates.

    Args:
        prefix: Of the distribution's name.
        run: How a run names it.
    """

    prefix: str
    run: str


_KINDS = {
    "reward": _Kind("orwcfm-reward-", "--reward {name}"),
    "backbone": _Kind("orwcfm-backbone-", "--backbone {name} --reward jpeg-compressibility"),
    "regularizer": _Kind("orwcfm-reg-", "--reg {name}"),
}
_FILES = {
    "README.md": "{kind}/README.md",
    "LICENSE": "LICENSE",
    "pyproject.toml": "pyproject.toml",
    "src/{package}/__init__.py": "__init__.py",
    "src/{package}/plugin.py": "{kind}/plugin.py",
    "src/{package}/{kind}.py": "{kind}/{kind}.py",
    "src/{package}/py.typed": "py.typed",
    "tests/test_conformance.py": "test_conformance.py",
    ".github/workflows/test.yml": "test.yml",
}
"""Template of each file."""
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_LONGEST = 64


@click.command()
@click.argument("kind", type=click.Choice(list(_KINDS)))
@click.argument("name")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder; must not exist.  [default: its distribution's name]"
)
def new(kind: str, name: str, out: Path | None) -> None:
    """Write a package with a reward, backbone or regularizer of your own.

    It works as it is written; comments that begin with "Yours" say where to change it.
    """
    _check(kind, name)
    folder = out or Path(_KINDS[kind].prefix + name)
    write(folder, render(kind, name))
    click.echo(
        f"wrote {folder}: it works as it is, and comments that begin with 'Yours' say where to change it; then\n"
    )
    # With ./ in front pip takes it for a folder, never for a name.
    click.echo(f"    pip install -e {shlex.quote(str(folder) if folder.is_absolute() else f'./{folder}')}")
    click.echo(f"    orwcfm plugins check {kind} {name}")
    click.echo(f"    {_run(kind, name)}")


def render(kind: str, name: str) -> dict[str, str]:
    """The files of a new distribution.

    Args:
        kind: reward, backbone or regularizer.
        name: Its name on the command line.

    Returns:
        Text by path.
    """
    from importlib.metadata import version
    from importlib.resources import files
    from string import Template

    from orwcfm_core.plugin import GROUPS

    dist = _KINDS[kind].prefix + name
    words = {
        "kind": kind,
        "base": kind.capitalize(),
        "name": name,
        "title": "".join(word.capitalize() for word in name.split("-")),
        "dist": dist,
        "package": dist.replace("-", "_"),
        "group": GROUPS[kind],
        "core": core_range(version("orwcfm-core")),
        "run": _run(kind, name),
    }
    templates = files("orwcfm_cli") / "templates"
    return {
        path.format_map(words): Template((templates / f"{template.format_map(words)}.in").read_text()).substitute(words)
        for path, template in _FILES.items()
    }


def write(folder: Path, texts: dict[str, str]) -> None:
    """Write a folder of files, all of them or none.

    Args:
        folder: Must not exist.
        texts: Text by path.

    Raises:
        UserError: It exists, or cannot be made.
    """
    if os.path.lexists(folder):
        raise UserError(f"{folder} exists already; choose another --out, or remove it")
    beside = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        for path, text in texts.items():
            file = beside / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8", newline="\n")
        beside.rename(folder)
    except OSError as e:
        raise UserError(f"cannot write {folder}: {e.strerror}") from e
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def core_range(core: str) -> str:
    """The requirement of a plugin that was written for a core: what keeps to the same contract.

    Args:
        core: Version of the core.
    """
    from packaging.version import Version

    here = Version(core)
    lowest = here.public if here.is_prerelease else f"{here.major}.{here.minor}"
    return f"orwcfm-core>={lowest},<{here.major + 1 if here.major else f'0.{here.minor + 1}'}"


def _run(kind: str, name: str) -> str:
    return f"orwcfm run {_KINDS[kind].run.format(name=name)}"


def _check(kind: str, name: str) -> None:
    """See that pip, Python and the other plugins leave the name free.

    Raises:
        UserError: They do not.
    """
    from orwcfm_core.plugin import RESERVED

    prefix = _KINDS[kind].prefix
    if not _NAME.fullmatch(name) or len(name) > _LONGEST:
        near = re.sub(r"[^a-z0-9]+", "-", name.lower())[:_LONGEST].strip("-0123456789")
        raise UserError(
            f"name '{name}': expected at most {_LONGEST} lower-case letters, digits and single hyphens, a letter "
            f"first, as in {near if len(near) > 2 else 'bright-pixels'}"
        )
    if name.startswith(prefix):
        raise UserError(f"name '{name}': leave out {prefix}, the distribution gets it by itself")
    if name == "none":
        raise UserError("name 'none': it stands for no component at all; choose another name")
    if name in RESERVED:
        raise UserError(
            f"name '{name}': it belongs to the run, as {', '.join(sorted(RESERVED))} do; choose another name"
        )
    _check_unused(kind, name)


def _check_unused(kind: str, name: str) -> None:
    """See that neither the plugin nor its distribution is installed: one would take the other's place."""
    from importlib.metadata import PackageNotFoundError, version

    from orwcfm_core.registry import Registry

    registry = Registry()
    for plugin in [*registry.plugins, *registry.switched_off]:
        if (plugin.kind, plugin.name) == (kind, name):
            raise UserError(f"name '{name}': {plugin} is installed already; choose another name")
    dist = _KINDS[kind].prefix + name
    try:
        here = version(dist)
    except PackageNotFoundError:
        return
    raise UserError(f"name '{name}': {dist} {here} is installed already; choose another name")
