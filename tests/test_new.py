"""What `orwcfm new` writes: complete, like our own plugins, and working as it is."""

import ast
import json
import subprocess
import sys
import tomllib
from itertools import groupby

import pytest
from commandline import SMALL
from environments import ALONE, ROOT, TOOLS, environment_with, run
from orwcfm_cli.new import core_range, render, write
from orwcfm_core.plugin import RESERVED

KINDS = ("reward", "backbone", "regularizer")
OWN = sorted(path.parent for kind in KINDS for path in ROOT.glob(f"plugins/{kind}s/*/pyproject.toml"))
DISTS = {"reward": "orwcfm-reward-", "backbone": "orwcfm-backbone-", "regularizer": "orwcfm-reg-"}
RUNS = {
    "reward": ["--reward", "tiny-thing"],
    "backbone": ["--backbone", "tiny-thing", "--reward", "jpeg-compressibility"],
    "regularizer": ["--reg", "tiny-thing"],
}
INSTEAD_OF_CLIP = {"regularizer": ["--reward", "jpeg-compressibility"]}


@pytest.mark.parametrize("kind", KINDS)
def test_it_writes_a_whole_distribution_and_says_what_to_type(orwcfm, tmp_path, kind):
    dist = DISTS[kind] + "tiny-thing"
    said = orwcfm("new", kind, "tiny-thing").stdout
    written = {str(path.relative_to(tmp_path / dist)) for path in (tmp_path / dist).rglob("*") if path.is_file()}
    assert written == set(render(kind, "tiny-thing"))
    assert [path.name for path in tmp_path.iterdir()] == [dist]
    commands = [line.strip() for line in said.splitlines() if line.startswith("    ")]
    assert commands == [
        f"pip install -e ./{dist}",
        f"orwcfm plugins check {kind} tiny-thing",
        f"orwcfm run {' '.join(RUNS[kind])}",
    ]
    texts = render(kind, "tiny-thing").values()
    assert not [text for text in texts if "$" in text.replace("${{ matrix.python }}", "")]
    assert "Yours:" in "".join(texts)


def test_out_chooses_the_folder(orwcfm, tmp_path):
    said = orwcfm("new", "reward", "tiny-thing", "--out", "a folder/mine").stdout
    assert (tmp_path / "a folder" / "mine" / "pyproject.toml").exists()
    assert "pip install -e './a folder/mine'" in said


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Bright_Pixels", "letter first, as in bright-pixels"),
        ("3d", "as in bright-pixels"),
        ("", "expected at most 64 lower-case letters"),
        ("a--b", "single hyphens"),
        ("a-", "single hyphens"),
        ("a.b", "expected"),
        ("a@b", "expected"),
        ("../a", "expected"),
        ("größe", "expected"),
        ("a\n", "expected"),
        ("a" * 65, "at most 64"),
        ("none", "stands for no component"),
        ("combine", "name 'combine': it belongs to the run"),
        ("orwcfm-reward-bright", "leave out orwcfm-reward-"),
        ("clip-score", "reward 'clip-score' of orwcfm-reward-clip-score 0.1.0 is installed already"),
        ("jpeg", "orwcfm-reward-jpeg 0.1.0 is installed already"),
    ],
)
def test_a_name_that_cannot_be_is_refused(orwcfm, tmp_path, name, said):
    done = orwcfm("new", "reward", "--", name, code=2)
    (line,) = done.stderr.rstrip("\n").splitlines() if "\n" not in name else [done.stderr]
    assert line.startswith("error: name '")
    assert said in line
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_no_option_of_the_run_can_be_a_name(orwcfm, name):
    assert f"name '{name}': " in orwcfm("new", "regularizer", name, code=2).stderr


@pytest.mark.parametrize("kind", KINDS)
def test_the_readme_has_no_options_that_could_change(kind):
    readme = render(kind, "tiny-thing")["README.md"]
    assert f"`orwcfm plugins show {kind} tiny-thing` lists its options." in readme
    assert "|" not in readme
    assert "default" not in readme


def test_a_plugin_that_is_switched_off_is_installed_all_the_same(orwcfm):
    done = orwcfm("new", "reward", "clip-score", code=2, ORWCFM_PLUGINS="")
    assert "is installed already" in done.stderr


def test_nothing_is_overwritten(orwcfm, tmp_path):
    (tmp_path / "orwcfm-reward-tiny-thing").mkdir()
    done = orwcfm("new", "reward", "tiny-thing", code=2)
    assert "orwcfm-reward-tiny-thing exists already" in done.stderr
    assert list((tmp_path / "orwcfm-reward-tiny-thing").iterdir()) == []
    (tmp_path / "file").touch()
    for out in ("file", "file/below", ".", "x" * 300):
        done = orwcfm("new", "reward", "tiny-thing", "--out", out, code=2)
        assert len(done.stderr.splitlines()) == 1
    assert "trainer" in orwcfm("new", "trainer", "tiny-thing", code=2).stderr


def test_it_writes_all_or_nothing(tmp_path):
    with pytest.raises(UnicodeEncodeError):
        write(tmp_path / "made", {"first": "text", "second": "\ud800"})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("core", "expected"),
    [
        ("0.1.0", "orwcfm-core>=0.1,<0.2"),
        ("0.12.3", "orwcfm-core>=0.12,<0.13"),
        ("1.4.2+cpu", "orwcfm-core>=1.4,<2"),
        ("0.2.0.dev3", "orwcfm-core>=0.2.0.dev3,<0.3"),
    ],
)
def test_the_range_of_the_core(core, expected):
    assert core_range(core) == expected


def test_it_starts_without_torch(tmp_path):
    code = (
        "import sys; from orwcfm_cli.main import cli\n"
        "cli(['new', 'backbone', 'tiny-thing', '--out', 'made'], standalone_mode=False)\n"
        "print(sorted({'torch', 'numpy', 'jinja2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("ours", OWN, ids=lambda path: path.name)
def test_our_own_plugins_have_the_same_files_in_the_same_order(ours):
    kind = ours.parent.name.removesuffix("s")
    texts = render(kind, "tiny-thing")
    package = f"{DISTS[kind]}tiny-thing".replace("-", "_")
    own_package = next((ours / "src").iterdir()).name
    for path in texts:
        # One licence and one CI file serve all of ours, whose test files have names of their own.
        if path.startswith(("README", "pyproject", "src")):
            assert (ours / path.replace(package, own_package)).exists(), path
    assert "from orwcfm_core.testing import" in "".join(test.read_text() for test in ours.glob("tests/test_*.py"))
    generated, own = (tomllib.loads(text) for text in (texts["pyproject.toml"], (ours / "pyproject.toml").read_text()))
    assert list(generated) == list(own)
    assert list(generated["project"]) == list(own["project"])
    plugin = ours / "src" / own_package / "plugin.py"
    assert parts(plugin.read_text()) == parts(texts[f"src/{package}/plugin.py"]) == ["options", "specs"]


def parts(text):
    """What a light module consists of, in its order: classes of options, and hooks that return specs."""
    found = []
    for node in ast.parse(text).body:
        if isinstance(node, ast.ClassDef):
            found.append("options")
        elif isinstance(node, ast.FunctionDef) and node.decorator_list:
            found.append("specs")
    return [part for part, _ in groupby(found)]


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    """One of each kind, in folders that the project's rules apply to."""
    folder = tmp_path_factory.mktemp("generated")
    for kind in KINDS:
        write(folder / "plugins" / f"{kind}s" / "tiny-thing", render(kind, "tiny-thing"))
    return folder


def test_it_keeps_to_the_house_style(generated):
    (generated / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    for command in (["check"], ["format", "--check", "--diff"]):
        run([sys.executable, "-m", "ruff", *command, "plugins"], cwd=generated)


@pytest.mark.slow
def test_it_passes_mypy(generated):
    cache = str(ROOT / ".mypy_cache")
    sources = [str(path) for path in generated.glob("plugins/*/*/src")]
    config = str(ROOT / "pyproject.toml")
    run([sys.executable, "-m", "mypy", "--config-file", config, "--cache-dir", cache, *sources], cwd=generated)


@pytest.fixture(scope="module")
def clean(tmp_path_factory, generated):
    """An environment with wheels of core, cli, a few of our plugins, and one generated distribution of each kind."""
    names = ("orwcfm-core", "orwcfm", "orwcfm-backbone-unet", "orwcfm-reg-w2", "orwcfm-reward-jpeg")
    environment = environment_with(tmp_path_factory, names, TOOLS)
    folders = [str(path) for path in generated.glob("plugins/*/*")]
    run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", *folders], cwd=generated, **ALONE)
    environment.pip("install", "--quiet", *generated.glob("*.whl"))
    return environment


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_it_works_as_it_is(clean, generated, tmp_path, kind):
    folder = generated / "plugins" / f"{kind}s" / "tiny-thing"
    assert "passed" in clean("python", "-m", "pytest", "--confcutdir", ".", "-c", "pyproject.toml", cwd=folder)
    clean("orwcfm", "plugins", "check", kind, "tiny-thing", cwd=tmp_path)
    chosen = [*RUNS[kind], *INSTEAD_OF_CLIP.get(kind, [])]
    said = clean("orwcfm", "run", *chosen, *SMALL, "--json", "--out", "run", cwd=tmp_path)
    assert json.loads(said)["samples"] > 0
    assert (tmp_path / "run" / "report.html").exists()
    assert 'name = "tiny-thing"\n' in (tmp_path / "run" / "run.toml").read_text()
