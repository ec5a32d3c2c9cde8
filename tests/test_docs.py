"""What the documentation says is what the code does."""

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner
from orwcfm_cli.main import cli
from orwcfm_core.config import SECTIONS
from test_run import ALL_METRICS

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / page for page in ("README.md", "cli/README.md")),
    *(ROOT / "docs" / f"{page}.md" for page in ("several", "theory", "trainers-compared")),
    *ROOT.glob("plugins/*/*/README.md"),
]
LINES = sorted(
    {
        line.strip().removeprefix("orwcfm ")
        for page in PAGES
        for line in page.read_text().splitlines()
        # Lines that go on are continued below them; an environment of its own must exist to be named.
        if line.startswith("    orwcfm run ") and not re.search(r"@~|\\$", line)
    }
)


@pytest.mark.parametrize("line", LINES)
def test_every_example_line_is_a_valid_configuration(line):
    result = CliRunner().invoke(cli, [*shlex.split(line, comments=True), "--print-config"])
    assert result.exit_code == 0, result.exception
    assert all(f"[{section}]" in result.output for section in SECTIONS)


@pytest.mark.parametrize("page", ["README.md", "docs/sweep.md"])
@pytest.mark.parametrize("name", ["sweep", "compare", "eval"])
def test_example_lines_of_other_commands_have_options_that_exist(page, name):
    lines = re.findall(rf"^    orwcfm {name} (.*)$", (ROOT / page).read_text(), re.MULTILINE)
    assert lines
    for line in lines:
        cli.commands[name].make_context(name, shlex.split(line, comments=True))


def test_there_are_example_lines():
    assert len(LINES) > 10


def test_every_metric_is_explained():
    text = (ROOT / "docs" / "metrics.md").read_text()
    named = set(re.findall(r"`([a-z_]+)`", text)) | {"heldout_class-probability"}
    assert named >= ALL_METRICS


def test_links_between_pages_lead_somewhere():
    pages = [path for path in ROOT.rglob("*.md") if ".venv" not in path.parts]
    dead = [
        f"{page.name}: {target}"
        for page in pages
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text())
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert dead == []
