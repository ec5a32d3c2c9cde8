"""Writes docs/plugins/*.md from what the plugins of this repository say of themselves: `make docs`."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from orwcfm_cli.plugin_options import Option, options_of
from orwcfm_cli.plugin_pages import Page, describe
from orwcfm_core.config import SAMPLERS, WEIGHTINGS, CombineConfig, RegConfig, TermConfig
from orwcfm_core.plugin import GROUPS
from orwcfm_core.registry import Registry

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "plugins"

INTRODUCTIONS = {
    "reward": "What is maximised (`--reward`) or judges without being trained on (`--eval-reward`).",
    "backbone": "Generative models to fine-tune (`--backbone`).",
    "regularizer": "What keeps the model near the pre-trained one (`--reg`).",
    "trainer": "Training methods (`--trainer`); their options are section `train`.",
    "callback": "What is told of a run's events (`--callback`); [hooks](../hooks.md) says which.",
}
SHARED = {
    "reward": [*options_of("reward", TermConfig), *options_of("reward", CombineConfig)],
    "regularizer": options_of("reg", RegConfig),
}
"""Options that belong to the run and not to one component."""


def distributions() -> dict[str, Path]:
    """The folder of each distribution of this repository."""
    files = [ROOT / "orwcfm_core" / "pyproject.toml", *sorted(ROOT.glob("plugins/*/*/pyproject.toml"))]
    return {tomllib.loads(file.read_text())["project"]["name"]: file.parent for file in files}


def pages() -> dict[Path, str]:
    """The text of each page; what else is installed here is left out."""
    ours, registry = distributions(), Registry()
    missing = ours.keys() - {plugin.dist for plugin in registry.plugins}
    if missing:
        sys.exit(f"not installed here: {', '.join(sorted(missing))}")
    found = [describe(plugin, registry) for plugin in registry.plugins if plugin.dist in ours]
    of_plugins = {
        FOLDER / f"{kind}s.md": "\n".join(text(kind, [page for page in found if page.kind == kind], ours))
        for kind in GROUPS
    }
    return {**of_plugins, FOLDER / "weightings-samplers.md": "\n".join(built_in())}


def text(kind: str, found: Sequence[Page], ours: dict[str, Path]) -> Iterator[str]:
    """The lines of the page of a kind."""
    yield from (f"# {kind.capitalize()}s", "", INTRODUCTIONS[kind], "")
    yield f"Written by `make docs`; `orwcfm plugins show {kind} NAME` prints the same of whatever is installed."
    if kind in SHARED:
        yield "Trainers and backbones propose other values: `orwcfm run --print-config` prints what a run takes."
        yield from ("", f"Options that every {kind} has in a run:", "", *options(SHARED[kind]))
    for page in found:
        yield from ("", f"## {page.name}", "", page.summary, "", f"    {page.example}", "")
        folder = ours[page.dist].relative_to(ROOT)
        declared = "".join(f"; {name}: {value}" for name, value in page.declares.items())
        yield f"In [{page.dist}](../../{folder}), `{page.factory}`{declared}."
        if page.options:
            yield from ("", *options(page.options))
        if page.references:
            yield from ("", *(f"* {linked(reference)}" for reference in page.references))
    yield ""


def built_in() -> Iterator[str]:
    """The lines of the page of what the core brings."""
    yield from (
        "# Weightings and samplers",
        "",
        "Parts of the core (`--weighting`, `--sampler`). Written by `make docs`. Trainers and backbones propose other",
        "values for some: `orwcfm run --print-config` prints what a run takes.",
    )
    for section, models in (("weighting", WEIGHTINGS), ("sampler", SAMPLERS)):
        for model in dict.fromkeys(models.values()):
            names = [name for name, other in models.items() if other is model]
            yield from (
                "",
                f"## {section.capitalize()} {', '.join(names)}",
                "",
                " ".join((model.__doc__ or "").split()),
            )
            yield from (
                "",
                *options(option for option in options_of(section, model) if option.name != f"{section}.name"),
            )
    yield ""


def options(found: Iterable[Option]) -> Iterator[str]:
    """A table of options."""
    yield from ("| option | value | default | |", "|---|---|---|---|")
    for option in found:
        cells = [f"`{option.name}`", option.type, option.default, option.description]
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def linked(reference: str) -> str:
    """A reference whose arXiv number is a link."""
    return re.sub(r"arXiv:(\d+\.\d+)", r"[arXiv:\1](https://arxiv.org/abs/\1)", reference)


def main() -> None:
    """Write the pages, or with `--check` say which are not up to date."""
    stale = {path: text for path, text in pages().items() if not path.exists() or path.read_text() != text}
    if "--check" in sys.argv[1:]:
        sys.exit(f"make docs would change {', '.join(path.name for path in stale)}" if stale else 0)
    FOLDER.mkdir(exist_ok=True)
    for path, content in stale.items():
        path.write_text(content)


if __name__ == "__main__":
    main()
