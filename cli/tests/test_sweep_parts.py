"""What a sweep is made of: grids, names, means, the Pareto front, pages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from orwcfm_cli.compare_report import Comparison, Entry, write_comparison
from orwcfm_cli.outcomes import Outcome, front, outcomes_of, winners
from orwcfm_cli.overview import common_reference, differences
from orwcfm_cli.report_data import RunRecord
from orwcfm_cli.sweep_folder import Plan, SweepFolder, resolve_all
from orwcfm_cli.sweep_grid import Grid, text_of
from orwcfm_cli.sweep_pool import error_in
from orwcfm_cli.sweep_report import write_sweep_report
from orwcfm_cli.sweep_results import Row, read_rows, settings_of, write_results
from orwcfm_core.errors import UserError


def names(*texts: str) -> list[str]:
    return [combination.name for combination in Grid.parse(texts).combinations()]


def test_names_are_readable_and_short() -> None:
    assert names("alpha=0,0.1", "seed=0,1") == [
        "alpha=0,seed=0",
        "alpha=0,seed=1",
        "alpha=0.1,seed=0",
        "alpha=0.1,seed=1",
    ]
    assert names("weighting=exp", "reg.w2.alpha=1", "reg.kl.alpha=-2") == [
        "weighting=exp,reg.w2.alpha=1,reg.kl.alpha=-2"
    ]


def test_names_are_those_of_files_and_never_the_same() -> None:
    found = names('reward.prompt=["a/b", "a b", ["a", "b"], "a-b"]', "eval-reward=x")
    assert len(set(found)) == 4
    assert all("/" not in name and " " not in name for name in found)
    assert found[3] == "prompt=a-b,heldout=x"
    assert names('prompt=["a b"]')[0] in names('prompt=["c", "a b"]')


def test_long_names_are_cut_and_stay_different() -> None:
    found = names(*(f"backbone.{axis}={axis * 30}é,{axis * 30}ö" for axis in "abcdefgh"))
    assert max(len(name.encode()) for name in found) <= 200
    assert len(set(found)) == len(found) == 2**8


def test_too_many_runs_are_refused_however_the_grid_came_about() -> None:
    many = Grid.parse(["alpha=0", f"seed={','.join(map(str, range(6000)))}"])
    with pytest.raises(UserError, match="12,000 combinations are too many"):
        many.grown(Grid.parse(["alpha=1", "seed=0"]))


def test_values_reach_the_configuration() -> None:
    grid = Grid.parse(["alpha=0.5", "backbone.weights=mnist", "reward.jpeg.quality=[3]"])
    base = {"reg": {"name": "w2", "alpha": "1"}}
    assert grid.combinations()[0].over(base) == {
        "reg": {"name": "w2", "w2": {"alpha": "0.5"}},
        "backbone": {"weights": "mnist"},
        "reward": {"jpeg": {"quality": 3}},
    }
    assert base["reg"]["alpha"] == "1"


def test_a_grid_grows_by_values_alone() -> None:
    grid = Grid.parse(["alpha=0,1", "seed=0"])
    assert grid.grown(Grid.parse(["seed=1", "alpha=1,2"])).axes == {
        "reg.alpha": ["0", "1", "2"],
        "train.seed": ["0", "1"],
    }
    with pytest.raises(UserError, match=r"over reg\.alpha, train\.seed, not over reg\.alpha"):
        grid.grown(Grid.parse(["alpha=0"]))


def record(config: str = "", **final: float) -> RunRecord:
    return RunRecord(
        "run", {"reward": {"name": "r"}, "train": {"seed": config}}, "", [{"round": 1, **final}], final=final
    )


def row(alpha: float, seed: int, status: str = "done", **final: float) -> Row:
    return Row(f"alpha={alpha:g},seed={seed}", {"reg.alpha": alpha, "train.seed": seed}, status, "", record(**final))


def test_means_and_standard_errors_are_over_the_seeds_that_are_done() -> None:
    rows = [row(0.1, seed, reward_mean=value) for seed, value in enumerate((1.0, 2.0, 6.0))]
    rows += [row(0.1, 3, "interrupted", reward_mean=100.0), row(1.0, 0, reward_mean=5.0), row(2.0, 0, "missing")]
    several, one, none = (setting.mean("reward_mean") for setting in settings_of(rows))
    assert several
    assert (several.value, several.error, several.count) == pytest.approx((3.0, (14 / 2 / 3) ** 0.5, 3))
    assert one
    assert (one.value, one.error, one.count) == (5.0, None, 1)
    assert none is None


def test_strengths_that_come_with_names_are_no_seeds(tmp_path: Path) -> None:
    grid = Grid.parse(["reg=w2:0.1,w2:5", "seed=0,1"])
    configs = resolve_all(Plan({"backbone": {"name": "gmm"}}, grid, 1))
    settings = settings_of(read_rows(SweepFolder(tmp_path), configs, {}))
    assert [(setting.label, len(setting.rows)) for setting in settings] == [("w2:0.1", 2), ("w2:5", 2)]


def test_other_words_are_written_as_they_are_and_names_of_runs_stay() -> None:
    assert text_of(["Mädchen"]) == '["Mädchen"]'
    assert names('reward.prompt=[["Mädchen"]]') == ["prompt=-M-u00e4dchen-~34f805"]


def test_the_front_is_what_nothing_beats() -> None:
    points = [(1.0, 1.0), (2.0, 3.0), (3.0, 3.0), (4.0, 0.0), (1.0, 0.5), (1.0, 1.0)]
    assert front(points, more_x=False) == [0, 5, 1]
    assert front(points, more_x=True) == [2, 3]
    assert front([], more_x=True) == []


def test_rewards_of_different_kinds_are_no_gain() -> None:
    one = record(reward_mean=1.0, heldout_judge=0.5)
    other = RunRecord("b", {"reward": {"name": "s"}}, "", [{"round": 1}], final={"reward_mean": 2.0})
    assert [o.key for o in outcomes_of([one, one]) if o.gain] == ["heldout_judge", "reward_mean"]
    assert [o.key for o in outcomes_of([one, other]) if o.gain] == ["heldout_judge"]


def test_scores_for_other_prompts_are_no_gain() -> None:
    a, b = (
        RunRecord("r", {"reward": {"name": "s", "prompt": [p]}}, "", [{"round": 1}], final={"heldout_j": 1.0})
        for p in "ab"
    )
    assert not any(o.gain for o in outcomes_of([a, b]))
    assert [o.key for o in outcomes_of([a, a]) if o.gain] == ["heldout_j"]


def test_diversities_in_other_features_are_not_compared() -> None:
    def measured(space: str, **options: object) -> RunRecord:
        config = {"heldout": {"name": "j", **options}, "notes": {"feature_space": space}}
        final = {"diversity": 1.0, "satisfying_diversity": 1.0, "satisfying_share": 0.5}
        return RunRecord("r", config, "", [{"round": 1}], {"satisfying_judge": "j"}, final)

    def costs(*runs: RunRecord) -> list[str]:
        return [outcome.key for outcome in outcomes_of(runs) if outcome.cost]

    judged = measured("features of j", size=1, on_error="fail")
    assert costs(judged, measured("features of j", size=1, on_error="drop")) == ["diversity", "satisfying_diversity"]
    assert costs(judged, measured("features of j", size=2)) == []
    assert costs(judged, measured("pixels", size=1)) == []
    assert costs(measured("pixels", size=1), measured("pixels", size=2)) == ["diversity"]


def test_what_is_relative_to_a_model_is_compared_within_that_model() -> None:
    def measured(weights: str, normalise: str) -> RunRecord:
        config = {"backbone": {"name": "unet", "weights": weights}, "reward": {"name": "r", "normalise": normalise}}
        final = {"reward_mean": 1.0, "velocity_divergence": 0.1}
        return RunRecord("r", config, "", [{"round": 1}], {}, final)

    def compared(*runs: RunRecord) -> list[str]:
        return [outcome.key for outcome in outcomes_of(runs) if outcome.comparable]

    assert compared(measured("a", "z-score"), measured("a", "z-score")) == ["reward_mean", "velocity_divergence"]
    assert compared(measured("a", "none"), measured("b", "none")) == ["reward_mean"]
    assert compared(measured("a", "z-score"), measured("b", "z-score")) == []


def test_the_highest_are_all_that_are_shown_as_such() -> None:
    assert winners([(0.2046, "a"), (0.2063, "b"), (0.2065, "c"), (0.2073, "d")]) == ("0.207", ["d"])
    assert winners([(0.2068, "a"), (0.2073, "b"), (0.1, "c")]) == ("0.207", ["a", "b"])


@pytest.mark.parametrize(
    ("ends", "headline"),
    [
        ([1.0, 2.0, None], "Reward is highest in b: 2."),
        ([0.207, 0.2069, 0.1], "Reward is highest in a and b: 0.207."),
        ([0.207, 0.207, None], "Reward is the same in all runs that have it, to three digits: 0.207."),
        ([None, 2.0, None], "Reward is 2 in b, the only run that has it."),
        ([None, None, None], "No score is known."),
    ],
)
def test_a_comparison_says_who_is_ahead(tmp_path: Path, ends: list[float | None], headline: str) -> None:
    runs = [record(**({} if end is None else {"reward_mean": end})) for end in ends]
    entries = [Entry(tmp_path / name, name, name, "a", run) for name, run in zip("abc", runs, strict=True)]
    write_comparison(Comparison(entries), tmp_path / "page.html")
    assert f"<h1>{headline}</h1>" in (tmp_path / "page.html").read_text()


def test_what_the_line_sets_holds_for_all_that_a_grid_names() -> None:
    grid = Grid.parse(["reg=w2,kl"])
    line = {"reg": {"alpha": "0.7"}}
    grid.check_line(line, line)
    with pytest.raises(UserError, match=r"alpha: is set for 'w2', and --grid replaces that by 'kl'; put reg\.alpha"):
        grid.check_line({"reg": {"name": "w2", "alpha": "0.7"}}, line)
    with pytest.raises(UserError, match=r"reg\.alpha: is set on the command line and in --grid; keep one"):
        Grid.parse(["reg=w2,kl", "alpha=0.1"]).check_line({"reg": {"name": "w2", "alpha": "0.7"}}, line)
    # Options of one reward by its name, with and without a reward that is named beside them.
    for reward in ({"component": {"on_error": "drop"}}, {"name": "component", "component": {"on_error": "drop"}}):
        Grid.parse(['reward=["component"]']).check_line({"reward": reward}, {"reward": reward})
    # What all trainers and samplers have stays.
    base = {"train": {"name": "orw-cfm", "rounds": "3"}, "sampler": {"name": "euler", "steps": "4"}}
    Grid.parse(["train.name=orw-cfm,awm", "sampler=euler,adams"]).check_line(base, base)


def test_where_a_reward_runs_and_what_it_does_when_it_fails_is_no_difference() -> None:
    tables = {"name": "s", "on_error": "fail"}, {"name": "s@/env", "on_error": "drop", "window": 9, "timeout": 1.0}
    runs = [RunRecord("r", {"reward": table}, "", [{"round": 1}], final={"reward_mean": 1.0}) for table in tables]
    assert [o.key for o in outcomes_of(runs) if o.gain] == ["reward_mean"]


def test_a_reference_is_shown_where_all_have_it() -> None:
    one, same, other = (RunRecord("r", {}, "", reference={"diversity": d}) for d in (0.5, 0.50001, 0.6))
    outcomes = [Outcome("diversity", "diversity")]
    assert common_reference([one, same], outcomes) is one
    assert common_reference([one, same, other], outcomes) is None
    assert common_reference([one, RunRecord("r", {}, "")], outcomes) is None
    assert common_reference([], outcomes) is None


def test_the_end_is_that_of_the_result() -> None:
    rounds = [{"round": n, "velocity_divergence": float(n), "reward_mean": 1.0} for n in range(1, 17)]
    stopped = RunRecord("r", {}, "", rounds, final={"round": 8, "reward_mean": None})
    assert stopped.end("velocity_divergence") == 8.0
    # Not known is not what it was in training.
    assert stopped.end("reward_mean") is None
    assert RunRecord("r", {}, "", rounds).end("velocity_divergence") == 15.5


def test_only_options_that_differ_are_told() -> None:
    a = RunRecord("a", {"reg": {"name": "w2", "alpha": 1.0}, "versions": {"x": "1"}}, "")
    b = RunRecord("b", {"reg": {"name": "none"}, "versions": {"x": "2"}}, "")
    assert differences([a, b]) == {"reg.name": ["w2", "none"], "reg.alpha": [1.0, None]}


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("round 1\nerror: a\nError: b\n", 2, "a; Error: b"),
        ("round 1\nTypeError: x\n", 1, "ended the process with exit code 1: TypeError: x"),
        ("", -9, "crashed with SIGKILL"),
        ("fine\n", 0, "ended without a result: fine"),
    ],
)
def test_errors_are_found_in_logs(tmp_path: Path, text: str, code: int, said: str) -> None:
    (tmp_path / "log").write_text(text)
    assert error_in(tmp_path / "log", code) == said


def test_pages_of_nothing_and_of_failures(tmp_path: Path) -> None:
    grid = Grid.parse(["alpha=0,1"])
    (tmp_path / "sweep.toml").write_text(
        '[sweep]\nthreads = 1\n[grid]\n"reg.alpha" = ["0", "1"]\n[base.x]\ny = "<i>"\n'
    )
    rows = [Row("alpha=0", {"reg.alpha": 0.0}, "missing", "", None)]
    rows.append(Row("alpha=1", {"reg.alpha": 1.0}, "failed", "no <b> memory", None))
    folder = SweepFolder(tmp_path)
    write_results(folder, grid, rows)
    page = write_sweep_report(folder, grid, rows).read_text()
    assert "No run is done yet." in page
    assert "no &lt;b&gt; memory" in page
    assert "<i>" not in page
    found = json.loads((tmp_path / "results.json").read_text())
    assert [run["status"] for run in found["runs"]] == ["missing", "failed"]
    assert (tmp_path / "results.csv").read_text().splitlines()[0] == "run,reg.alpha,status,rounds,seconds,error"


def test_lines_of_long_names_are_numbered_and_means_say_of_how_many_runs(tmp_path: Path) -> None:
    grid = Grid.parse(["alpha=0,1", 'prompt=["a sneaker with white laces", "a boot"]', "seed=0,1"])
    (tmp_path / "sweep.toml").write_text('[sweep]\nthreads = 1\n[grid]\n"reg.alpha" = ["0", "1"]\n')
    rows = [
        Row(
            combination.name,
            dict(combination.values) | {"reg.alpha": float(combination.values["reg.alpha"])},
            "done",
            "",
            # Of the second run of each setting nothing satisfies.
            record(reward_mean=1.0, **({} if combination.values["train.seed"] == "1" else {"diversity": 0.5})),
        )
        for combination in grid.combinations()
    ]
    page = write_sweep_report(SweepFolder(tmp_path), grid, rows).read_text()
    assert "One line for each prompt: 1 is a sneaker with white laces; 2 is a boot." in page
    assert page.count("0.500 (1 of 2)") == 4
