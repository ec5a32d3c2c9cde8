"""The report: what it says of good, collapsed and broken runs, and how a browser shows it."""

from __future__ import annotations

import html
import json
import math
import random
import re
from pathlib import Path
from typing import Any

import pytest
from browser import measured_in_a_browser
from orwcfm_cli.charts import Guide, Mark, Series, Trail, line_chart, number, plane
from orwcfm_cli.report import write_report
from orwcfm_cli.report_data import read_run
from orwcfm_cli.report_verdict import judge
from orwcfm_core.errors import UserError
from PIL import Image, ImageDraw

TOML = """
[backbone]
name = "unet"
weights = "fashion"

[reward]
name = "clip-score"
prompt = {prompt}

[heldout]
name = "class-probability"

[reg]
name = "w2"
alpha = {alpha}

[weighting]
name = "{weighting}"
tau = 1.0

[sampler]
name = "euler"
steps = 10

[train]
name = "orw-cfm"
rounds = {rounds}
samples = 64
device = "cpu"

[versions]
orwcfm = "0.1.0"
orwcfm-core = "0.1.0"
torch = "2.4.0"

[notes]
reward = "CLIP similarity of the picture and the prompt"
feature_space = "features of a small classifier"
"""
REFERENCE = {
    "samples": 1024,
    "reward_mean": 0.21,
    "reward_std": 0.12,
    "heldout_class-probability": 0.27,
    "diversity": 1.05,
    "satisfying_share": 0.27,
    "satisfying_diversity": 0.6,
    "satisfying_judge": "class-probability",
}


def make_run(
    folder: Path,
    *,
    done: int = 80,
    planned: int = 80,
    diversity: float = 0.55,
    reward: float = 0.62,
    heldout: float = 0.97,
    alpha: float = 0.3,
    weighting: str = "advantage",
    prompt: str = '["a shoe"]',
    pictures: bool = True,
    reference: bool = True,
) -> Path:
    """A run folder as a training leaves it behind, with curves that go from the reference to the given ends."""
    folder.mkdir(parents=True)
    folder.joinpath("run.toml").write_text(
        TOML.format(prompt=prompt, alpha=alpha, weighting=weighting, rounds=planned), encoding="utf-8"
    )
    if reference:
        folder.joinpath("reference.json").write_text(json.dumps(REFERENCE), encoding="utf-8")
    draw = random.Random(0)
    lines = [json.dumps(make_round(n, planned, reward, heldout, diversity, draw)) for n in range(1, done + 1)]
    folder.joinpath("metrics.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    if pictures:
        for n in range(0, done + 1, 10):
            make_picture(folder / "samples" / f"round_{n:04d}.png", n / planned, 0.55 - diversity)
    return folder


def make_round(
    n: int, planned: int, reward: float, heldout: float, diversity: float, draw: random.Random
) -> dict[str, Any]:
    done = 1 - math.exp(-5 * (n - 1) / planned)

    def way(start: float, end: float, noise: float) -> float:
        return start + (end - start) * done + draw.gauss(0, noise)

    return {
        "round": n,
        "reward_mean": way(0.21, reward, 0.012),
        "reward_std": 0.12 * (1 - 0.7 * done),
        "heldout_class-probability": min(1.0, way(0.27, heldout, 0.02)),
        "velocity_divergence": 0.06 * done * math.exp(draw.gauss(0, 0.15)),
        "diversity": max(0.004, way(1.05, diversity, 0.02)),
        "ess": way(0.62, 0.4, 0.03),
        "loss": 0.4 + 0.1 * draw.random(),
        "penalty": 0.05 * done + 0.01 * draw.random(),
        "grad_norm": 0.5 * math.exp(draw.gauss(0, 0.25)),
        "lr": 5e-4 * (0.55 + 0.45 * math.cos(math.pi * n / planned)),
        "invalid": 0,
        "nfe": 1664,
        "samples_per_second": 24 + draw.gauss(0, 0.5),
        "seconds": 2.7 + draw.gauss(0, 0.05),
    }


def make_picture(path: Path, done: float, sameness: float) -> None:
    """A grid of blobs that turn from discs into bars; all the same where diversity is lost."""
    path.parent.mkdir(exist_ok=True)
    draw, noise = random.Random(1), random.Random(int(100 * done))
    sheet = Image.new("L", (526, 526), 128)
    pen = ImageDraw.Draw(sheet)
    for i in range(64):
        x, y = i % 8 * 66, i // 8 * 66
        wide, high, grey = draw.randint(14, 30), draw.randint(10, 30), draw.randint(120, 255)
        if sameness > 0.3 and done > 0.3:
            wide, high, grey = 26, 9, 220
        high = round(high + (9 - high) * done)
        pen.rectangle((x, y, x + 63, y + 63), fill=0)
        shape = pen.rectangle if done > noise.random() else pen.ellipse
        shape((x + 32 - wide, y + 32 - high, x + 32 + wide, y + 32 + high), fill=grey)
    sheet.save(path)


def page_of(run: Path) -> str:
    return write_report(run).read_text(encoding="utf-8")


def headline_of(page: str) -> str:
    found = re.search(r"<h1>(.*?)</h1>", page)
    assert found
    return html.unescape(found[1])


def test_good_run_says_what_happened(tmp_path: Path) -> None:
    run = make_run(tmp_path / "good")
    record = read_run(run)
    end = record.end("heldout_class-probability")
    kept = record.end("diversity")
    assert end
    assert kept
    assert judge(record).level == "good"
    assert headline_of(page_of(run)) == (
        f"Held-out class-probability rose from 0.27 to {end:.2f}; diversity is "
        f"{100 * kept / 0.6:.0f}\N{NO-BREAK SPACE}% of that of the reference's own samples that satisfy the prompt."
    )


def test_good_run_has_every_section(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path / "good"))
    titles = re.findall(r"<h2>(.*?)</h2>", page)
    assert titles == [
        "Before and after",
        "Over the rounds",
        "What the reward costs",
        "Through time",
        "Numbers",
        "What alpha buys",
        "Configuration",
    ]
    assert page.count("<svg") == 9 + 3
    assert page.count("<img") == 2 + 9
    assert all("alt=" in image for image in re.findall(r"<img[^>]*>", page))
    assert page.count("<svg") == page.count('role="img"') == len(re.findall(r"<svg[^>]*><title>", page))
    assert "orwcfm run --config good/run.toml" in page
    assert "orwcfm resume" not in page
    assert not re.search(r"""(src|href|url\()=?["']?(https?:)?//""", page)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"alpha": 0.0, "weighting": "exp"},
            ["Raise reg.alpha (--alpha, now 0)", "--weighting advantage (now exp)", "fewer rounds"],
        ),
        ({"alpha": 0.3, "weighting": "advantage"}, ["Raise reg.alpha (--alpha, now 0.3)", "fewer rounds"]),
    ],
)
def test_collapse_is_named_with_what_to_change(tmp_path: Path, options: dict[str, Any], words: list[str]) -> None:
    run = make_run(tmp_path / "collapsed", diversity=0.02, heldout=0.99, **options)
    page = html.unescape(page_of(run))
    assert headline_of(page).startswith("COLLAPSE: held-out class-probability rose from 0.27 to")
    assert all(word in page for word in words)


@pytest.mark.parametrize(
    ("weighting", "level"), [("exp", "collapse"), ("advantage", "good"), ("group-advantage", "good"), ("top-k", "good")]
)
def test_collapsed_weights_count_where_weights_are_positive(tmp_path: Path, weighting: str, level: str) -> None:
    run = make_run(tmp_path / "run", weighting=weighting)
    rows = [json.loads(line) | {"ess": 0.02} for line in (run / "metrics.jsonl").read_text().splitlines()]
    (run / "metrics.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    assert judge(read_run(run)).level == level


@pytest.mark.parametrize(
    ("options", "label"),
    [
        ({"diversity": 0.4}, "Narrowed"),
        ({"heldout": 0.27}, "Reward only"),
        ({"heldout": 0.27, "reward": 0.21}, "No gain"),
    ],
)
def test_cautions(tmp_path: Path, options: dict[str, Any], label: str) -> None:
    verdict = judge(read_run(make_run(tmp_path / "run", **options)))
    assert (verdict.level, verdict.label) == ("caution", label)
    assert verdict.reasons
    assert verdict.advice


def test_a_run_that_is_not_done_gets_no_final_verdict(tmp_path: Path) -> None:
    verdict = judge(read_run(make_run(tmp_path / "run", done=23, heldout=0.27, reward=0.21)))
    assert (verdict.level, verdict.label) == ("caution", "No gain so far")
    assert not verdict.advice


def test_advice_against_a_collapse_is_not_taken_back(tmp_path: Path) -> None:
    advice = judge(read_run(make_run(tmp_path / "run", diversity=0.05, heldout=0.27, reward=0.21))).advice
    assert any(text.startswith("Raise reg.alpha") for text in advice)
    assert not any(text.startswith(("Lower reg.alpha", "Train for more")) for text in advice)


def test_only_options_that_there_are_are_advised(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", heldout=0.27, reward=0.21)
    assert "Lower reg.alpha (--alpha)." in judge(read_run(run)).advice
    toml = run / "run.toml"
    text = toml.read_text()
    for nothing_to_lower in ('name = "none"', 'name = "w2"\nalpha = 0'):
        toml.write_text(re.sub(r'name = "w2"\nalpha = .*', nothing_to_lower, text))
        assert judge(read_run(run)).advice == ["Train for more rounds (--rounds)."]


def test_a_small_gain_far_from_zero_is_one_where_samples_say_so(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", reference=False)
    rows = [{"round": n, "reward_mean": 20.6 + 0.005 * n, "diversity": 1.0} for n in range(1, 81)]
    (run / "metrics.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    for name, value in (("reference", 20.6), ("final", 21.0)):
        found = {"round": 80, "samples": 1024, "reward_mean": value, "reward_std": 0.8, "diversity": 1.0}
        (run / f"{name}.json").write_text(json.dumps(found))
    assert headline_of(page_of(run)).startswith("Reward rose from 20.60 to 21.00")


def test_an_early_stop_shows_the_picture_of_its_result(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", done=40)
    (run / "final.json").write_text(json.dumps({"round": 20, "samples": 64}))
    record = read_run(run)
    assert record.result
    assert record.result.round == 20
    assert judge(record).label == "Healthy"


def test_a_result_that_nothing_could_score_is_not_healthy(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    final = {"round": 80, "samples": 64, "reward_mean": None, "heldout_class-probability": None, "diversity": 0.5}
    (run / "final.json").write_text(json.dumps(final))
    page = page_of(run)
    assert headline_of(page).startswith("Reward is not known")
    assert judge(read_run(run)).label == "Not scored"


def test_unstable_run_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows[59]["velocity_divergence"] = 7.6
    (run / "metrics.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    assert judge(read_run(run)).label == "Unstable"
    assert "log scale" in page_of(run)


def test_interrupted_run_ignores_the_half_line(tmp_path: Path) -> None:
    run = make_run(tmp_path / "cut off", done=23)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"round": 24, "reward_me')
    page = page_of(run)
    assert "23 of 80 rounds are done." in page
    assert "Healthy so far" in page
    assert html.escape("orwcfm resume 'cut off'") in page
    assert read_run(run).numbers[-1] == 23


@pytest.mark.parametrize("done", [0, 1, 2])
@pytest.mark.parametrize("bare", [True, False])
def test_short_runs(tmp_path: Path, done: int, bare: bool) -> None:
    page = page_of(make_run(tmp_path / "short", done=done, pictures=not bare, reference=not bare))
    assert ("No round has finished yet" in headline_of(page)) == (done == 0)
    assert ("This run has no pictures" in page) == bare
    assert "nan" not in re.sub(r"base64,[^\"]*|<style>.*</style>|<script>.*</script>", "", page, flags=re.S).lower()


def test_missing_metrics_repeated_rounds_and_nan(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", done=3, pictures=False, reference=False)
    rows: list[dict[str, Any]] = [
        {"round": 1, "reward_mean": 0.1},
        {"round": 2, "reward_mean": float("nan"), "loss": float("inf")},
        {"round": 3, "reward_mean": 9.0},
        {"round": 3, "reward_mean": 0.3},
    ]
    (run / "metrics.jsonl").write_text("\n".join([*(json.dumps(row) for row in rows), "[1]", "null"]))
    assert read_run(run).series("reward_mean") == [0.1, None, 0.3]
    assert headline_of(page_of(run)) == "Reward rose from 0.10 to 0.30."


def test_pictures_that_are_none_are_left_out(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "samples" / "round_0090.png").write_bytes(b"\x89PN")
    (run / "samples" / "round_last.png").write_bytes((run / "samples" / "round_0000.png").read_bytes())
    assert [p.round for p in read_run(run).pictures] == list(range(0, 81, 10))


def test_everything_is_escaped(tmp_path: Path) -> None:
    evil = "</style><script>alert(1)</script>&"
    run = make_run(tmp_path / "a <b> & c", prompt=json.dumps([evil]), weighting="<i>")
    page = page_of(run)
    assert "<script>alert" not in page
    assert html.escape(evil) in page
    assert "<b> & c" not in page
    assert "<i>" not in page


def test_no_run_is_a_mistake_of_the_user(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"run\.toml"):
        write_report(tmp_path)
    (tmp_path / "run.toml").write_text("[")
    with pytest.raises(UserError, match="TOML"):
        write_report(tmp_path)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.966, "0.966"),
        (-1.287, "\N{MINUS SIGN}1.29"),
        (1234.5, "1,234"),
        (0.00052, "0.00052"),
        (0.0599, "0.0599"),
        (80.0, "80"),
        (5e-7, "5e\N{MINUS SIGN}7"),
        (math.nan, "not finite"),
    ],
)
def test_number(value: float, text: str) -> None:
    assert number(value) == text


def test_charts_place_values_where_they_belong() -> None:
    chart = line_chart("a < b", [Series([1, 2, 3], [0.0, None, 10.0])], guides=[Guide(5.0, "half & half")])
    dots = [float(y) for y in re.findall(r'class="dot a" [^>]*cy="([\d.]+)" r="2"', chart)]
    guide = re.search(r'class="guide"[^>]*y1="([\d.]+)"', chart)
    assert guide
    assert float(guide[1]) == pytest.approx(sum(dots) / 2, abs=0.1)
    assert "a &lt; b" in chart
    assert "half &amp; half" in chart


def test_labels_of_almost_equal_points_do_not_overlap_in_a_browser(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path / "run"))
    far = [Mark(0.0, 0.0, "reference"), Mark(1.0, 1.0, "other")]
    for spread in (0.0, 0.001):
        marks = [Mark(0.5 + spread * i, 0.9 - spread * (i % 3), f"seed={i},alpha=0.1") for i in range(12)]
        chart = plane("t", [], x_label="x", y_label="y", marks=[*marks, *far], size=(440, 330))
        page = page.replace("</main>", f'<div class="crowd">{chart}</div></main>', 1)
    # Lines touch where their letters do: a box has room for accents besides.
    script = """(() => {
        const boxes = c => [...c.querySelectorAll('.value')].map(t => t.getBBox());
        const apart = (a, b) => a.x + a.width < b.x || a.y + a.height - 2 < b.y;
        const touching = row => row.flatMap((a, i) => row.slice(i + 1).filter(b => !apart(a, b) && !apart(b, a)));
        return [...d.querySelectorAll('.crowd')].map(boxes).map(row => [row.length, touching(row).length]);
    })()"""
    found, _ = measured_in_a_browser(page, script, tmp_path)
    assert found[3] == [[14, 0], [14, 0]]


def test_labels_at_the_ends_of_lines_stay_in_the_chart_in_a_browser(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path / "run"))
    labels = ["", "alpha=1", "seed=0,alpha=0.1", "weighting.margin=0.125", "reward.model=small,seed=3"]
    charts = "".join(line_chart("t", [Series([1, 2], [0.1, 0.9876], label)]) for label in labels)
    page = page.replace("</main>", f'<div class="named">{charts}</div></main>', 1)
    script = """[...d.querySelectorAll('.named .value')].map(t => {
        const box = t.getBBox();
        return box.x + box.width <= t.ownerSVGElement.viewBox.baseVal.width;
    })"""
    found, _ = measured_in_a_browser(page, script, tmp_path)
    assert found[3] == [True] * len(labels)


def test_plane_leaves_out_what_a_logarithm_cannot_show() -> None:
    trail = Trail([(0.0, 1.0), (0.1, 2.0), (10.0, 3.0)], ["a", "b", "c"])
    chart = plane("t", [trail], x_label="x", y_label="y", marks=[Mark(0.0, 1.0, "start")], log_x=True)
    assert re.findall(r"<title>(\w)</title>", chart) == ["t", "b", "c"]
    assert "start" not in chart


def test_browser_shows_it_without_errors_requests_or_overflow(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path / "good", done=60))
    found, errors = measured_in_a_browser(page, "d.querySelectorAll('.gallery.scrub figure.on').length", tmp_path)
    assert found == [0, True, 0, 1]
    assert ":CONSOLE" not in errors
