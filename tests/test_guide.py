"""docs/write-a-reward.md, typed in literally by somebody who has just installed orwcfm."""

import ast
import os
import re
import textwrap
from difflib import ndiff
from importlib import import_module
from pathlib import Path

import pytest
from environments import ALONE, ROOT, TOOLS, environment_with, run
from orwcfm_cli.new import render
from orwcfm_core.plugin import RESERVED

SEVERAL = (ROOT / "docs" / "several.md").read_text()
PAGE = (ROOT / "docs" / "write-a-reward.md").read_text()
WALK, _, MORE = PAGE.partition("## Scores that cannot be computed")
FOLDER = "orwcfm-reward-bright-pixels"
FILES = dict(re.findall(rf"`{FOLDER}/(\S+)`:\n\n```python\n(.*?)```", WALK, re.DOTALL))
LINES = re.findall(r"(?<=\n    )\S.*", re.sub(r"```.*?```", "", WALK, flags=re.DOTALL))
REWARD = "src/orwcfm_reward_bright_pixels/reward.py"


def test_the_page_has_files_and_commands():
    assert list(FILES) == [REWARD.replace("reward.py", "plugin.py"), REWARD, "tests/test_bright_pixels.py"]
    assert [line.split()[0] for line in LINES] == ["orwcfm", "pip", "python", "orwcfm", "orwcfm"]


def test_a_reward_is_at_most_30_own_lines():
    generated = render("reward", "bright-pixels")
    typed = [
        line
        for path, text in FILES.items()
        for line in ndiff(generated.get(path, "").splitlines(), text.splitlines())
        if line.startswith("+ ") and line.strip() != "+"
    ]
    assert 10 <= len(typed) <= 30, "\n".join(typed)


def test_the_page_names_every_generated_file():
    for path in render("reward", "bright-pixels"):
        assert f"`{path}`" in PAGE or f"`{Path(path).name}`" in PAGE, path


def test_the_page_names_the_options_that_belong_to_the_run():
    (sentence,) = re.findall(r"The names ([^.]*) belong to the run\.", MORE)
    assert set(re.findall(r"`(\w+)`", sentence)) == RESERVED


def test_the_page_names_what_happens_to_a_reward_that_fails():
    actions = re.findall(
        r"^\| (?:`reward\.on_error`.*?)?\| `(fail|drop|retry\(N\)|penalise\(SCORE\))` \|", SEVERAL, re.M
    )
    assert len(actions) == 4
    assert all(f"`{action}`" in MORE for action in actions)


def test_what_may_be_relied_on_is_there_and_has_public_names():
    (modules,) = re.findall(r"\* (`orwcfm_core\.plugin`.*?): all names in their `__all__`", MORE, re.DOTALL)
    for module in re.findall(r"`([\w.]+)`", modules):
        assert import_module(f"orwcfm_core.{module.removeprefix('orwcfm_core.')}").__all__


@pytest.fixture(scope="module")
def typed_in(tmp_path_factory):
    """The environment and the folder after everything up to the run was done."""
    names = ("orwcfm-core", "orwcfm", "orwcfm-backbone-unet", "orwcfm-reg-w2")
    environment = environment_with(tmp_path_factory, names, TOOLS)
    environment.add_pip()
    here = tmp_path_factory.mktemp("anywhere")
    shell(environment, here, LINES[0])
    for path, text in FILES.items():
        (here / FOLDER / path).write_text(text)
    return environment, here, {line: shell(environment, here, line) for line in LINES[1:]}


@pytest.mark.slow
def test_the_page_works_as_written(typed_in):
    _, here, said = typed_in
    assert "passed" in said["python -m pytest orwcfm-reward-bright-pixels"]
    (made,) = (here / "runs").iterdir()
    assert (made / "report.html").exists()
    assert 'name = "bright-pixels"\n' in (made / "run.toml").read_text()
    assert "threshold = 0.7" in (made / "run.toml").read_text()


@pytest.mark.slow
def test_the_methods_shown_later_fit_in(typed_in):
    environment, here, _ = typed_in
    text = FILES[REWARD]
    for block in re.findall(r"```python\n(.*?)```", MORE, re.DOTALL):
        text = with_method(text, block)
    (here / FOLDER / REWARD).write_text(text)
    assert "passed" in shell(environment, here, "python -m pytest orwcfm-reward-bright-pixels")


def with_method(text, block):
    """A module with a method put into its class, in the place of one of that name."""
    method = ast.parse(textwrap.dedent(block)).body[0].name
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and node.name == method:
            del lines[node.lineno - 1 : node.end_lineno]
    return "\n".join([*lines, "", block])


def shell(environment, folder, line):
    """Type a line into a shell in which the environment is active."""
    path = f"{environment.bin}{os.pathsep}{os.environ['PATH']}"
    return run(["sh", "-c", line], cwd=folder, PATH=path, **ALONE)
