"""What the documentation says is what the code does."""

import json
import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner
from commandline import SMALL
from orwcfm_cli.main import cli
from orwcfm_core.config import SECTIONS
from test_run import METRICS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *ROOT.glob("plugins/*/*/README.md"), ROOT / "cli" / "README.md"]
LINES = sorted(
    {
        line.strip().removeprefix("orwcfm ")
        for page in PAGES
        for line in page.read_text().splitlines()
        if line.startswith("    orwcfm run ")
    }
)


@pytest.mark.parametrize("line", LINES)
def test_every_example_line_is_a_valid_configuration(line):
    result = CliRunner().invoke(cli, [*shlex.split(line), "--print-config"])
    assert result.exit_code == 0, result.exception
    assert all(f"[{section}]" in result.output for section in SECTIONS)


def test_there_are_example_lines():
    assert len(LINES) > 10


def test_every_metric_is_explained():
    text = (ROOT / "docs" / "metrics.md").read_text()
    named = set(re.findall(r"`([a-z_]+)`", text)) | {"heldout_class-probability"}
    assert named >= METRICS


def test_links_between_pages_lead_somewhere():
    pages = [path for path in ROOT.rglob("*.md") if ".venv" not in path.parts]
    dead = [
        f"{page.name}: {target}"
        for page in pages
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text())
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert dead == []


def test_the_plugin_of_the_guide_works_as_written(orwcfm, tmp_path):
    guide = (ROOT / "docs" / "plugins.md").read_text()
    light, heavy = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    package = tmp_path / "site" / "orwcfm_reward_bright"
    info = tmp_path / "site" / "orwcfm_reward_bright-0.1.0.dist-info"
    for folder in (package, info):
        folder.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "plugin.py").write_text(light)
    (package / "reward.py").write_text(heavy)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: orwcfm-reward-bright\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("[orwcfm.rewards]\nbright-pixels = orwcfm_reward_bright.plugin\n")
    line = next(line for line in guide.splitlines() if line.startswith("    orwcfm run "))
    done = orwcfm(*shlex.split(line)[1:], *SMALL, "--json", PYTHONPATH=str(tmp_path / "site"))
    assert 0 < json.loads(done.stdout)["reward_mean"] < 1
