"""The command `doctor`: is this machine fit to run? Only what `--help` needs is imported here."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from orwcfm_cli.output import aligned, as_json, print_json, terminal_width

__all__ = ["doctor"]

PROBLEM = 2
"""Exit code where something will not work."""
_GB = 1e9


@dataclass(frozen=True)
class Finding:
    """One line of what was found.

    Args:
        status: `ok`, `warning` or `problem`.
        topic: What was looked at.
        text: What was seen.
        advice: What to do; empty if nothing.
    """

    status: str
    topic: str
    text: str
    advice: str = ""


@click.command()
@as_json
def doctor(as_json: bool) -> None:
    """See whether this machine is fit: versions, device, plugins, memory, disk."""
    findings = []
    for look in (_python, _versions, _torch, _plugins, _memory, _disk):
        findings += list(look())
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        rows = [[f.status, f.topic, f"{f.text}: {f.advice}" if f.advice else f.text] for f in findings]
        click.echo("\n".join(aligned(rows, terminal_width())))
    if any(finding.status == "problem" for finding in findings):
        sys.exit(PROBLEM)


def _python() -> Iterator[Finding]:
    from importlib.metadata import metadata
    from platform import python_version

    from packaging.specifiers import SpecifierSet

    wanted = metadata("orwcfm-core")["Requires-Python"] or ""
    if SpecifierSet(wanted).contains(python_version(), prereleases=True):
        yield Finding("ok", "Python", python_version())
    else:
        yield Finding("problem", "Python", python_version(), f"orwcfm needs {wanted}; install it under such a Python")


def _versions() -> Iterator[Finding]:
    """Each distribution of the command line and the core, with what it needs."""
    from importlib.metadata import distribution

    from orwcfm_core.registry import unmet

    for name in ("orwcfm", "orwcfm-core"):
        dist = distribution(name)
        lines = unmet(dist)
        advice = f"pip install --upgrade {name}" if lines else ""
        yield Finding("problem" if lines else "ok", name, "; ".join([dist.version, *lines]), advice)


def _torch() -> Iterator[Finding]:
    """Torch, torchvision and the device, tried in a process of its own: versions that do not match can crash it."""
    from orwcfm_cli.child import report_from

    reports, ending = report_from("orwcfm_cli.torch_probe", [], seconds=120)
    for report in reports:
        yield Finding(**report)
    if ending:
        yield Finding("problem", "torch", f"importing it {ending}", "install torch and torchvision anew")


def _plugins() -> Iterator[Finding]:
    """All plugins are imported in one process; `plugins doctor` takes one for each."""
    from orwcfm_core.registry import STRICT

    from orwcfm_cli.child import report_from

    reports, ending = report_from("orwcfm_cli.plugin_census", [], 300, {STRICT: "0"})
    advice = "orwcfm plugins doctor says which and why"
    if ending:
        yield Finding("problem", "plugins", f"importing them {ending}", advice)
    for fine, broken, off in reports:
        text = f"{fine} fine, {broken} broken" + (f", {off} switched off" if off else "")
        yield Finding("problem", "plugins", text, advice) if broken else Finding("ok", "plugins", text)


def _memory() -> Iterator[Finding]:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free = _available()
    text = f"{total / _GB:.1f} GB" if free is None else f"{free / _GB:.1f} GB free of {total / _GB:.1f} GB"
    if (total if free is None else free) < 2 * _GB:
        yield Finding("warning", "memory", text, "a run takes 2 GB and more; lower train.micro_batch")
    else:
        yield Finding("ok", "memory", text)


def _available() -> int | None:
    """Bytes of memory that a new process could use; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    return int(fields["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in fields else None


def _disk() -> Iterator[Finding]:
    """The working directory, in which a run writes its folder."""
    import shutil
    import tempfile

    free = shutil.disk_usage(".").free
    text = f"{free / _GB:.1f} GB free in {Path.cwd()}"
    try:
        with tempfile.TemporaryFile(dir="."):
            pass
    except OSError as e:
        yield Finding("problem", "disk", f"cannot write in {Path.cwd()}: {e.strerror}", "go to another folder")
        return
    if free < _GB:
        yield Finding("warning", "disk", text, "free some, go to another folder or lower train.keep")
    else:
        yield Finding("ok", "disk", text)
