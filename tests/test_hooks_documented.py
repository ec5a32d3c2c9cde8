"""Every hook is documented as it is, and so is every plugin."""

import inspect
import re
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
from orwcfm_cli.plugin_options import Option
from orwcfm_core.events import Events
from orwcfm_core.plugin import GROUPS, Hooks

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "hooks.md").read_text()
HOOKS = [function for owner in (Hooks, Events) for name, function in vars(owner).items() if name.startswith("orwcfm_")]


def signature(function) -> str:
    """The signature as a plugin's author types it."""
    found = inspect.signature(function)
    parameters = [parameter for name, parameter in found.parameters.items() if name != "self"]
    # Annotations are kept as strings.
    return function.__name__ + str(found.replace(parameters=parameters)).replace("'", "")


@pytest.mark.parametrize("function", HOOKS, ids=lambda function: function.__name__)
def test_every_hook_is_documented_with_its_signature(function):
    assert f"`{signature(function)}`" in PAGE


def test_no_other_hook_is_documented():
    documented = re.findall(r"`(orwcfm_\w+)\(", PAGE)
    assert sorted(documented) == sorted(function.__name__ for function in HOOKS)


def test_every_hook_stands_beside_its_group():
    rows = dict(re.findall(r"\| `(orwcfm_\w+)\(\).*` \| `([\w.]+)` \|", PAGE))
    assert rows == {f"orwcfm_{kind}s": group for kind, group in GROUPS.items()}


def test_the_pages_of_the_plugins_are_up_to_date():
    done = subprocess.run([sys.executable, ROOT / "docs" / "generate.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_bar_in_a_table_does_not_end_its_cell():
    described = {"type": "text", "default": "a|b", "description": "One | the other."}
    row = [*generator().options([Option(name="reward.way", **described)])][-1]
    assert [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] == [
        "`reward.way`",
        "text",
        "a\\|b",
        "One \\| the other.",
    ]


def test_rows_of_tables_have_as_many_cells_as_their_heads():
    for page in (ROOT / "docs").rglob("*.md"):
        for table in re.findall(r"(?:^\|.*\n)+", page.read_text(), re.MULTILINE):
            widths = {len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}
            assert len(widths) == 1, f"{page}: {table}"


def test_patterns_are_not_shown_to_users():
    assert "matching" not in (ROOT / "docs" / "plugins" / "rewards.md").read_text()


def generator():
    """docs/generate.py as a module."""
    found = spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    module = module_from_spec(found)
    found.loader.exec_module(module)
    return module
