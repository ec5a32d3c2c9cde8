"""What may import what, and what an installation brings."""

import ast
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PLUGINS = sorted(path.parent for path in ROOT.glob("plugins/*/*/pyproject.toml"))


def imported(folder: Path) -> set[str]:
    """Top-level names that the modules of a folder import."""
    names = set()
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.partition(".")[0])
    return {name for name in names if name.startswith("orwcfm")}


def test_core_imports_itself_alone():
    assert imported(ROOT / "orwcfm_core" / "src") == {"orwcfm_core"}


def test_the_command_line_imports_no_plugin():
    assert imported(ROOT / "cli" / "src") == {"orwcfm_core", "orwcfm_cli"}


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda path: path.name)
def test_a_plugin_imports_core_and_itself(plugin):
    package = next((plugin / "src").iterdir()).name
    assert imported(plugin / "src") <= {"orwcfm_core", package}


def test_core_brings_at_most_18_packages_besides_cuda():
    found: set[str] = set()
    todo = ["orwcfm-core"]
    while todo:
        for line in requires(todo.pop()) or []:
            requirement = Requirement(line)
            name = canonicalize_name(requirement.name)
            wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            # triton compiles for CUDA; a torch for the CPU alone does not bring it.
            if wanted and not name.startswith(("nvidia-", "cuda-", "triton")) and name not in found:
                found.add(name)
                todo.append(name)
    assert len(found) <= 18, sorted(found)
