"""The commands `plugins list`, `show`, `check` and `doctor`. Only what `--help` needs is imported here."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click
from orwcfm_core.errors import UserError

from orwcfm_cli.output import aligned, as_json, line, print_json, shortened, terminal_width, widths

if TYPE_CHECKING:
    from orwcfm_core.registry import Plugin, Registry
    from orwcfm_core.remote import RemotePlugin

    from orwcfm_cli.plugin_pages import Page

__all__ = ["plugins"]

BROKEN = 2
"""Exit code of a command that found a broken plugin."""


def _kind(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """A kind of component: `reward`, `rewards`, ..., and `reg` as in `--reg`."""
    from orwcfm_core.plugin import GROUPS

    if value is None:
        return None
    kind = "regularizer" if value == "reg" else value.removesuffix("s")
    if kind not in GROUPS:
        raise click.BadParameter(f"unknown kind '{value}', expected {', '.join(GROUPS)}")
    return kind


kind_argument = click.argument("kind", callback=_kind)
name_argument = click.argument("name")


@click.group()
def plugins() -> None:
    """See what is installed, what it offers and whether it works."""


@plugins.command("list")
@click.option("--kind", callback=_kind, help="Only this kind: reward, backbone, regularizer, trainer, callback.")
@click.option("--check", is_flag=True, help="Import the implementations too, and look for conflicts.")
@as_json
def list_plugins(kind: str | None, check: bool, as_json: bool) -> None:
    """List all plugins, with what is wrong with any of them."""
    from orwcfm_core.registry import Registry

    registry = Registry()
    rows = [_row(p, registry, check) for p in registry.plugins if kind in (None, p.kind)]
    if as_json:
        print_json(rows)
    else:
        _print_list(rows)
    _say_what_is_missing(registry)
    if check and any(row["error"] for row in rows):
        sys.exit(BROKEN)


@plugins.command()
@kind_argument
@name_argument
@as_json
def show(kind: str, name: str, as_json: bool) -> None:
    """Show a plugin: its options, what it declares, an example.

    A reward may be in an environment of its own, NAME@/path/to/venv.
    """
    from dataclasses import asdict

    from orwcfm_core.registry import Registry

    from orwcfm_cli.plugin_pages import describe

    registry = Registry()
    page = describe(_plugin(kind, name, registry), registry)
    if as_json:
        print_json(asdict(page))
    else:
        click.echo("\n".join(_page_lines(page, terminal_width())))


@plugins.command()
@kind_argument
@name_argument
@click.option("--set", "settings", multiple=True, metavar="OPTION=VALUE", help="Set one of its options.")
@as_json
def check(kind: str, name: str, settings: tuple[str, ...], as_json: bool) -> None:
    """Check that a plugin keeps to the contract, by running it on a small example."""
    from orwcfm_core.registry import Registry
    from orwcfm_core.remote import RemotePlugin

    registry = Registry()
    plugin, options = _plugin(kind, name, registry), _options(kind, settings)
    if isinstance(plugin, RemotePlugin):
        there = plugin.environment.interpreter.with_name("orwcfm")
        missing = "" if there.exists() else f" (after {plugin.environment.interpreter} -m pip install orwcfm)"
        raise UserError(
            f"{plugin}: check it there: {there} plugins check {kind} {plugin.asked}{missing}, or run its tests"
        )
    from orwcfm_core.testing import check as conformance

    rows = []
    changed = {**plugin.spec.example.options, **options} if options else None
    for result in conformance(kind, name, changed, registry):
        rows.append({"check": result.name, "status": result.status, "message": result.message})
        if not as_json:
            text = " ".join(result.message.split())
            click.echo(line([result.status, result.name, text], [7, 32]))
    counts = {status: sum(row["status"] == status for row in rows) for status in ("passed", "failed", "skipped")}
    if as_json:
        print_json(rows)
    else:
        click.echo(", ".join(f"{count} {status}" for status, count in counts.items()))
    if counts["failed"]:
        sys.exit(BROKEN)


@plugins.command()
@click.option("--seconds", type=click.FloatRange(0.1), default=60, show_default=True, help="Time limit for a plugin.")
@as_json
def doctor(seconds: float, as_json: bool) -> None:
    """Import each plugin in a process of its own, and say what is wrong with it.

    Shows how long its light module takes to import, and then its factory, without torch.
    """
    import os

    from orwcfm_core.registry import ALLOW, STRICT, Registry

    from orwcfm_cli.plugin_notes import idle_entries

    # A plugin that crashes, which strict mode would import here, is what this command looks for.
    os.environ[STRICT] = "0"
    registry = Registry()
    rows = list(_diagnoses(registry, seconds, as_json))
    idle = idle_entries(registry)
    if as_json:
        print_json({"plugins": rows, "unknown_in_allow_list": idle})
    for entry in idle:
        click.echo(f"warning: {ALLOW} names '{entry}', which no plugin or distribution is called", err=True)
    _say_what_is_missing(registry)
    if any(row["error"] for row in rows):
        sys.exit(BROKEN)


def _plugin(kind: str, name: str, registry: Registry) -> Plugin | RemotePlugin:
    """What is installed here, or a reward in an environment of its own."""
    from orwcfm_core.remote import RemotePlugin
    from orwcfm_core.resolve import located

    asked, environment = located(name) if kind == "reward" else (name, "")
    return RemotePlugin(asked, environment) if environment else registry.get(kind, asked)


def _row(plugin: Plugin, registry: Registry, check: bool) -> dict[str, Any]:
    """What `plugins list` says of a plugin."""
    summary, error = "", None
    try:
        summary = plugin.spec.summary
        if check:
            plugin.check()
    except UserError as e:
        error = str(e)
    found = _identity(plugin) | {"summary": summary, "error": error}
    if check:
        from orwcfm_cli.plugin_notes import notes

        found["notes"] = notes(plugin, registry)
    return found


def _identity(plugin: Plugin) -> dict[str, Any]:
    return {"kind": plugin.kind, "name": plugin.name, "dist": plugin.dist, "version": plugin.version}


def _cells(row: dict[str, Any]) -> list[str]:
    return [row["kind"], row["name"], f"{row['dist']} {row['version']}"]


def _print_list(rows: list[dict[str, Any]]) -> None:
    """One line for each; summaries are shortened on a terminal, mistakes are not."""
    table = [[*_cells(row), ""] for row in rows]
    columns = widths(table)
    width = terminal_width()
    room = None if width is None else max(width - sum(columns) - 2 * len(columns), 10)
    for row, cells in zip(rows, table, strict=True):
        text = f"broken: {row['error']}" if row["error"] else shortened(row["summary"], room)
        for note in row.get("notes", ()):
            text += f" ({note})"
        click.echo(line([*cells[:-1], text], columns))


def _page_lines(page: Page, width: int | None) -> Iterator[str]:
    """The page as text."""
    yield from (f"{page.kind} {page.name}", page.summary, "")
    facts = {"distribution": f"{page.dist} {page.version}", "factory": page.factory, "plugin API": str(page.api)}
    yield from aligned([*(facts | dict(page.declares)).items()], width)
    yield from ("", "options:" if page.options else "no options")
    if page.options:
        rows = [[option.name, option.type, option.default, option.description] for option in page.options]
        yield from aligned([["name", "type", "default", ""], *rows], width)
    if page.references:
        yield from ("", "references:", *page.references)
    yield from ("", "example:", f"    {page.example}")


def _options(kind: str, settings: tuple[str, ...]) -> dict[str, Any]:
    """Options as after `orwcfm run --set`, but the section may be left out."""
    from orwcfm_cli.options import merge
    from orwcfm_cli.plugin_pages import SECTIONS

    section = SECTIONS[kind]
    full = [setting if setting.startswith(f"{section}.") else f"{section}.{setting}" for setting in settings]
    return merge(None, full, {}).get(section, {})


def _diagnoses(registry: Registry, seconds: float, as_json: bool) -> Iterator[dict[str, Any]]:
    """Examine all plugins; print each line when it is known, for this takes a while."""
    from dataclasses import asdict

    from orwcfm_cli.plugin_doctor import examine_all

    titles = ["kind", "name", "distribution", "light", "factory", ""]
    table = [[*_cells(_identity(plugin)), "00.000 s", "00.000 s", ""] for plugin in registry.plugins]
    columns = widths([titles, *table])
    if not as_json:
        click.echo(line(titles, columns))
    for plugin, cells, found in zip(registry.plugins, table, examine_all(registry, seconds), strict=True):
        if not as_json:
            times = [f"{t:6.3f} s" if t is not None else "-" for t in (found.light_seconds, found.factory_seconds)]
            click.echo(line([*cells[:3], *times, found.verdict], columns))
        yield _identity(plugin) | asdict(found)


def _say_what_is_missing(registry: Registry) -> None:
    for text in registry.unreadable:
        click.echo(f"warning: {text}", err=True)
    if registry.switched_off:
        names = ", ".join(f"{p.kind} '{p.name}'" for p in registry.switched_off)
        click.echo(f"switched off by ORWCFM_PLUGINS: {names}", err=True)
