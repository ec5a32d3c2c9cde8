"""What a run says while it goes wrong, and how good it takes itself to be."""

from __future__ import annotations

from statistics import fmean
from typing import Any

import pytest
from orwcfm_cli.watch import SMOOTHED, Watch, known, quality

FINE = {"diversity": 1.0, "ess": 0.8, "velocity_divergence": 0.1, "reward_mean": 0.5}


def watched(reference: dict[str, Any], rows: list[dict[str, Any]], weighting: str = "exp") -> dict[int, list[str]]:
    """The warnings by round."""
    seen: list[dict[str, Any]] = []
    watch = Watch(reference, seen, weighting)
    found = {}
    for number, row in enumerate(rows, 1):
        seen.append({"round": number, **FINE, **row})
        if warnings := watch.look():
            found[number] = warnings
    return found


def test_a_healthy_run_says_nothing():
    assert watched({"diversity": 1.2}, [{} for _ in range(100)]) == {}
    assert watched({}, [{} for _ in range(100)]) == {}


def test_a_collapse_is_said_once_with_what_to_change():
    falling = [{"diversity": 1.0 - 0.04 * i} for i in range(25)]
    found = watched({"diversity": 1.3, "satisfying_diversity": 1.0}, falling)
    # The first round at which the mean of the last five is below one half: of 1 - 0.04 (n - 3).
    first = next(n for n in range(5, 26) if fmean(1.0 - 0.04 * i for i in range(n - 5, n)) < 0.5)
    assert list(found) == [first]
    assert len(found[first]) == 1
    assert found[first][0].startswith(f"warning: round {first}: diversity fell to 0.4")
    assert "good samples have 1.00: it is collapsing; raise reg.alpha (--alpha)" in found[first][0]


def test_what_an_ideal_run_keeps_is_the_measure_where_it_is_known():
    narrow = [{"diversity": 0.4} for _ in range(10)]
    unjudged = watched({"diversity": 1.0}, narrow)
    assert list(unjudged) == [5]
    assert "where the pre-trained model has 1.00:" in unjudged[5][0]
    # Whoever draws boots alone has no more variety than boots have.
    assert watched({"diversity": 1.0, "satisfying_diversity": 0.5}, narrow) == {}


def test_few_samples_with_all_the_weight_are_said():
    found = watched({"diversity": 1.0}, [{"ess": 0.5}] * 3 + [{"ess": 0.008}] * 9)
    assert list(found) == [8]
    assert "0.8 % of the samples carry all the weight; lower weighting.tau (--tau)" in found[8][0]
    # A share that was chosen.
    assert watched({"diversity": 1.0}, [{"ess": 0.01}] * 9, "top-k") == {}


def test_weights_that_are_all_zero_are_not_carried_by_a_few():
    assert watched({"diversity": 1.0}, [{"ess": 0.0}] * 9) == {}


def test_a_blow_up_is_said_and_a_normal_start_is_not():
    # From zero at the reference, the first rounds grow by any factor.
    start = [{"velocity_divergence": 1e-6 * 3**i} for i in range(10)]
    level = [{"velocity_divergence": 0.05}] * 25
    assert watched({"diversity": 1.0}, start + level) == {}
    found = watched({"diversity": 1.0}, start + level + [{"velocity_divergence": 5.0}] * 5)
    assert len(found) == 1
    assert "lower train.lr" in next(iter(found.values()))[0]


def test_one_noisy_round_is_no_collapse():
    rows = [{"diversity": 0.05 if i == 7 else 1.0, "ess": 0.001 if i == 7 else 0.8} for i in range(20)]
    assert watched({"diversity": 1.2}, rows) == {}


@pytest.mark.parametrize("bad", [None, "much", True, float("nan"), float("inf"), 10**400, [1.0], {}])
def test_metrics_that_are_no_numbers_are_as_if_they_were_not_there(bad):
    assert known({"x": bad}, "x") is None
    rows = [{"diversity": bad, "ess": bad, "velocity_divergence": bad, "reward_mean": bad} for _ in range(40)]
    assert watched({"diversity": bad, "satisfying_diversity": bad}, rows) == {}
    assert quality(rows) is None


def test_quality_is_that_of_the_first_judge_smoothed():
    rows = [{"reward_mean": 9.0, "heldout_b": float(i), "heldout_a": -1.0} for i in range(20)]
    assert quality(rows) == fmean(range(20 - SMOOTHED, 20))
    assert quality([{"reward_mean": 2.0}, {"reward_mean": None}, {"reward_mean": 4.0}]) == 3.0
    assert quality([{"heldout_a": None, "reward_mean": 1.0}]) is None
    assert quality([]) is None
