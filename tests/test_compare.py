"""`orwcfm compare` on real runs."""

import json

import pytest
from browser import measured_in_a_browser
from commandline import SMALL
from test_run import GMM


@pytest.mark.slow
def test_runs_and_sweeps_are_compared_on_one_page(orwcfm, tmp_path):
    gmm = (*GMM, "--rounds", 2, "--set", "train.eval_samples=64")
    orwcfm("sweep", *gmm, "--grid", "alpha=0,1", "--out", "sweep", "--processes", 2)
    orwcfm("run", *gmm, "--alpha", 3, "--out", "run")
    orwcfm("run", *SMALL, "--set", "train.eval_samples=16", "--out", "pictures")
    done = orwcfm("compare", "sweep", "run", "sweep/runs/alpha=0", "pictures", "--out", "page.html", "--json")
    result = json.loads(done.stdout)
    assert [run["name"] for run in result["runs"]] == ["alpha=0", "alpha=1", "run", "pictures"]
    assert [run["options"]["reg.alpha"] for run in result["runs"]] == [0.0, 1.0, 3.0, 0.1]
    final = json.loads((tmp_path / "run" / "final.json").read_text())
    assert result["runs"][2]["end"]["reward_mean"] == final["reward_mean"]
    # Rewards of other kinds are not ranked, nor what is measured from other models or in other features.
    assert result["fronts"] == []
    alone = json.loads(orwcfm("compare", "sweep", "run", "--json").stdout)
    assert {front["gain"] for front in alone["fronts"]} == {"reward_mean"}
    assert {front["cost"] for front in alone["fronts"]} >= {"velocity_divergence", "diversity"}

    page = (tmp_path / "page.html").read_text()
    assert 'href="sweep/runs/alpha=0/report.html"' in page
    found, said = measured_in_a_browser(page, "d.querySelectorAll('svg .line').length", tmp_path)
    assert found[:3] == [0, True, 0]
    assert found[3] >= 3 * 3
    assert ":CONSOLE" not in said

    assert result["comparable"]["reward_mean"] is False
    assert alone["comparable"]["reward_mean"] is True
    assert "these values cannot be compared" in orwcfm("compare", "run", "pictures").stdout
    assert all(run["done"] for run in result["runs"])

    table = orwcfm("compare", "sweep", "run").stdout.splitlines()
    assert table[0].split() == ["run", "rounds", "reward", "diversity", "velocity", "divergence", "reg.alpha"]
    assert table[3].startswith("run")
    assert (tmp_path / "compare.html").exists()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ((), "Missing argument"),
        (("gone", "away"), "gone is neither a run folder nor a sweep"),
        (("a", "a"), "expected at least two runs to compare, found 1"),
        (("a", "b", "--out", "."), "expected an HTML file, got a folder"),
        (("a", "b", "--out", "a/run.toml/page.html"), "cannot make its folder"),
    ],
)
def test_mistakes(orwcfm, tmp_path, args, said):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.toml").write_text("")
    assert said in orwcfm("compare", *args, code=2).stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
