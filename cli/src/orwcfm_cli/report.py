"""The report of a run: one self-contained page, written from the run folder alone."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from orwcfm_cli.charts import Guide, Mark, Series, Trail, line_chart, number, plane, spans_decades
from orwcfm_cli.options import flat
from orwcfm_cli.page import ARROW, DASH, DOT, duration, fact_list, figure, image, page, table, write_page, written
from orwcfm_cli.report_data import Picture, RunRecord, finite, read_run, running_mean
from orwcfm_cli.report_metrics import ALPHA, Metric, metrics_of
from orwcfm_cli.report_verdict import Verdict, judge, measure_name, plain

__all__ = ["write_report"]

MOST_PICTURES = 12


def write_report(run: Path) -> Path:
    """Write `report.html` into a run folder.

    The page needs nothing but itself: style, charts and pictures are inside, and it works without JavaScript.

    Args:
        run: A folder with run.toml; metrics.jsonl, reference.json and samples/ are used as far as they are there.

    Returns:
        The page.

    Raises:
        UserError: There is no readable run.toml.
    """
    target = run / "report.html"
    write_page(target, _page(read_run(run)))
    return target


def _page(run: RunRecord) -> str:
    verdict, metrics = judge(run), metrics_of(run)
    script = files("orwcfm_cli").joinpath("report.js").read_text("utf-8")
    sections = [_before_after(run), _curves(run, metrics), _planes(run), _gallery(run), _numbers(run, metrics)]
    sections += [_scales(run), _terms(run, metrics), _configuration(run)]
    version = run.option("versions", "orwcfm", "")
    footer = f"Written by orwcfm {version} from the run folder {run.name}."
    return page(f"{run.name} {DOT} orwcfm report", _header(run, verdict), sections, footer, script)


def _header(run: RunRecord, verdict: Verdict) -> str:
    parts = [" + ".join(run.names(section)) for section in ("backbone", "reward", "reg", "weighting")]
    weights = run.option("backbone", "weights")
    parts[0] += f" ({weights})" if weights and parts[0] else ""
    parts[1] += (
        " \N{LEFT DOUBLE QUOTATION MARK}" + ", ".join(run.prompts) + "\N{RIGHT DOUBLE QUOTATION MARK}"
        if run.prompts
        else ""
    )
    about = f" {DOT} ".join(escape(part) for part in parts if part)
    lists = [("Why", verdict.reasons), ("What to change", verdict.advice)]
    why = "".join(
        f"<div><h3>{title}</h3><ul>{''.join(f'<li>{escape(item)}</li>' for item in items)}</ul></div>"
        for title, items in lists
        if items
    )
    return (
        f'<p class="eyebrow"><b>{escape(run.name)}</b> {DOT} {about}</p>\n'
        f'<p class="badge {verdict.level}">{escape(verdict.label)}</p>\n<h1>{escape(verdict.headline)}</h1>\n'
        f"{_unfinished(run)}{f'<div class=why>{why}</div>' if why else ''}{_facts(run)}"
    )


def _unfinished(run: RunRecord) -> str:
    done = run.numbers[-1] if run.rounds else 0
    if done >= run.planned:
        return ""
    if run.final:
        best = number(run.end("round") or 0.0)
        return f"<p>Stopped after {done} of {run.planned} rounds; the result is round {best}, the best of them.</p>"
    command = escape(shlex.join(["orwcfm", "resume", run.name]))
    return f"<p>{done} of {run.planned} rounds are done. To go on: <code>{command}</code></p>"


def _facts(run: RunRecord) -> str:
    """The few numbers that matter, start to end."""
    if not run.rounds:
        return ""
    facts = []
    for key in ("reward_mean", run.heldout, "diversity"):
        start, end = (run.start(key), run.end(key)) if key else (None, None)
        if key and start is not None and end is not None:
            name = {"reward_mean": "Reward", "diversity": "Diversity"}.get(key) or measure_name(key).capitalize()
            facts.append((name, f"{plain(start)} {ARROW} {plain(end)}", ""))
    ideal = run.baseline("satisfying_diversity")
    if ideal is not None and facts and facts[-1][0] == "Diversity":
        facts[-1] = (*facts[-1][:2], f"satisfying reference samples: {plain(ideal)}")
    divergence = run.end("velocity_divergence")
    if divergence is not None:
        facts.append(("Velocity divergence", number(divergence), "0 is the reference"))
    total = sum(v or 0.0 for v in run.series("seconds"))
    facts.append(("Rounds", number(len(run.rounds)), f"in {duration(total)}" if total else ""))
    return fact_list(facts)


def _moment(picture: Picture) -> str:
    return "before training" if picture.round == 0 else f"after round {picture.round}"


def _grid(picture: Picture) -> str:
    return image(picture.file.read_bytes(), picture.size, f"Grid of samples {_moment(picture)}")


def _before_after(run: RunRecord) -> str:
    if not run.pictures:
        return "<h2>Before and after</h2>\n<p class=soft>This run has no pictures.</p>"
    chosen = list(dict.fromkeys([run.pictures[0], run.result or run.pictures[-1]]))
    figures = "".join(
        f"<figure>{_grid(p)}<figcaption><b>{_moment(p).capitalize()}</b></figcaption></figure>" for p in chosen
    )
    note = "Both grids start from the same noise: the same place shows what became of the same sample."
    return f"<h2>Before and after</h2>\n<p class=soft>{note}</p>\n<div class=pair>{figures}</div>"


def _gallery(run: RunRecord) -> str:
    if len(run.pictures) < 3:
        return ""
    last, most = len(run.pictures) - 1, min(MOST_PICTURES, len(run.pictures))
    chosen = [run.pictures[round(i * last / (most - 1))] for i in range(most)]
    figures = "".join(
        f'<figure data-label="round {p.round}">{_grid(p)}<figcaption>{_moment(p).capitalize()}</figcaption></figure>'
        for p in chosen
    )
    some = f" {most} of {len(run.pictures)} are shown." if most < len(run.pictures) else ""
    return (
        f"<h2>Through time</h2>\n<p class=soft>The same noise as training goes on.{some}</p>\n"
        f'<div class="gallery" data-gallery tabindex="0" role="group" aria-label="Samples through time">{figures}</div>'
    )


def _curves(run: RunRecord, metrics: Sequence[Metric]) -> str:
    if not run.rounds:
        return ""
    known = {metric.key: metric for metric in metrics}
    outcome = [metric.key for metric in metrics if metric.better]
    keys = [*outcome, "diversity", "velocity_divergence", "ess", "loss", "grad_norm", "lr", "seconds"]
    figures = [_curve(run, known[key], known["penalty"]) for key in keys]
    return f"<h2>Over the rounds</h2>\n<div class=charts>{''.join(figures)}</div>"


def _curve(run: RunRecord, metric: Metric, penalty: Metric) -> str:
    values, key = run.series(metric.key), metric.key
    if all(v is None for v in values):
        return ""
    tone = "c" if key == run.heldout else "a"
    lines = [Series(run.numbers, values, tone=tone, spread=run.series("reward_std") if key == "reward_mean" else ())]
    name, meaning = metric.name, metric.meaning
    if key == "loss" and any(v is not None for v in run.series("penalty")):
        lines = [Series(run.numbers, values, "loss"), Series(run.numbers, run.series("penalty"), "penalty", "b")]
        name, meaning = (
            "Loss and penalty",
            f"{meaning} {penalty.name}: {penalty.meaning[0].lower()}{penalty.meaning[1:]}",
        )
    meaning += " The band is one standard deviation between samples." if key == "reward_mean" else ""
    log = key in ("velocity_divergence", "loss", "grad_norm") and spans_decades(v for s in lines for v in s.y)
    limits = {"ess": (0.0, 1.0), "diversity": (0.0, None), "lr": (0.0, None), "seconds": (0.0, None)}
    svg = line_chart(
        f"{name} in each of {len(run.rounds)} rounds",
        lines,
        guides=_guides(run, key),
        limits=limits.get(key, (None, None)),
        log=log,
    )
    return figure(name, meaning, svg)


def _guides(run: RunRecord, key: str) -> list[Guide]:
    """Dashed lines for what the reference does untrained."""
    known = [(run.baseline(key), "reference")]
    if key == "diversity":
        known.append((run.baseline("satisfying_diversity"), "reference, satisfying"))
    return [Guide(value, label) for value, label in known if value is not None]


def _planes(run: RunRecord) -> str:
    """Reward against what it costs."""
    wanted = [("reward_mean", "velocity_divergence"), ("reward_mean", "diversity"), (run.heldout, "diversity")]
    figures = [_plane(run, y, x) for y, x in wanted if y]
    if not any(figures):
        return ""
    intro = "Each dot is a round, pale at the start and dark at the end; the line is their running mean."
    if run.baseline("satisfying_diversity") is not None:
        share, judge_name = run.baseline("satisfying_share"), str(run.reference.get("satisfying_judge", "the judge"))
        whole = f" ({100 * share:.0f}\N{NO-BREAK SPACE}% of all)" if share is not None else ""
        intro += (
            f" The ideal is high on the dashed line: as varied as the reference's own samples{whole} that {run.goal}"
            f", those that {judge_name} gives at least 0.5."
        )
    return (
        f"<h2>What the reward costs</h2>\n<p class=soft>{escape(intro)}</p>\n<div class=charts>{''.join(figures)}</div>"
    )


def _plane(run: RunRecord, y: str, x: str) -> str:
    rows = [(a, b, n) for a, b, n in zip(run.series(x), run.series(y), run.numbers, strict=True) if None not in (a, b)]
    points = [(a or 0.0, b or 0.0) for a, b, _ in rows]
    if not points:
        return ""
    width = len(points) // 20
    smooth = list(zip(*(running_mean(values, width) for values in zip(*points, strict=True)), strict=True))
    marks = [Mark(smooth[0][0], smooth[0][1], "start", "start")] if len(points) > 1 else []
    end = (run.end(x), run.end(y))
    if end[0] is not None and end[1] is not None:
        marks.append(Mark(end[0], end[1], "end", "end"))
    guides = []
    reference = (run.baseline(x), run.baseline(y))
    if reference[0] is not None and reference[1] is not None:
        marks.append(Mark(reference[0], reference[1], "reference", "reference"))
    ideal = run.baseline("satisfying_diversity")
    if x == "diversity" and ideal is not None:
        guides = [Guide(ideal, f"reference samples\nthat {run.goal}")]
    x_name = {"diversity": "diversity", "velocity_divergence": "velocity divergence"}[x]
    log = x == "velocity_divergence" and spans_decades(a for a, _ in points)
    name = f"{measure_name(y).capitalize()} against {x_name}"
    titles = [f"round {n}: {number(b or 0.0)} at {x_name} {number(a or 0.0)}" for a, b, n in rows]
    trail = Trail(points, titles, [(a, b) for a, b in smooth], "c" if y == run.heldout else "a")
    x_label = f"{x_name}{', log scale' if log else ''} {ARROW}"
    svg = plane(name, [trail], x_label=x_label, y_label=measure_name(y), marks=marks, guides=guides, log_x=log)
    return figure(name, "", svg)


def _numbers(run: RunRecord, metrics: Sequence[Metric]) -> str:
    rows = [row for metric in metrics if (row := _number_row(run, metric))]
    if not run.rounds or not rows:
        return ""
    fresh = f", for reward, judge and diversity {run.final['samples']} fresh samples" if "samples" in run.final else ""
    last = "the last round" if run.averaged == 1 else f"the mean of the last {run.averaged} rounds"
    last += f" up to round {run.numbers[run.led - 1]}" if 0 < run.led < len(run.rounds) else ""
    start = (
        "the untrained reference where it was measured, else the first round" if run.reference else "the first round"
    )
    note = f"<p class=soft>Start is {start}; end is {last}{escape(fresh)}.</p>"
    return f"<h2>Numbers</h2>\n{note}\n{table(['Metric', 'Start', 'Best', 'End'], rows)}"


def _number_row(run: RunRecord, metric: Metric) -> list[str]:
    end = run.end(metric.key)
    if end is None:
        return []
    start = run.start(metric.key)
    best = run.best(metric.key) if metric.better else None
    shown = f"{number(best[0])}<small>round {best[1]}</small>" if best else DASH
    return [escape(metric.name), DASH if start is None else number(start), shown, number(end)]


def _scales(run: RunRecord) -> str:
    """How several rewards compare on the reference's samples."""
    measured, correlations = (_tables(run.reference.get(key)) for key in ("rewards", "correlations"))
    if len(measured) < 2:
        return ""
    rows = [[escape(name), *(_or_dash(scale.get(key)) for key in ("mean", "std"))] for name, scale in measured.items()]
    pairs = [
        f"{first} and {second} {_or_dash(value)}"
        for first, others in correlations.items()
        for second, value in others.items()
    ]
    return (
        f"<h2>Rewards on the reference's samples</h2>\n{table(['Reward', 'Mean', 'Spread'], rows)}\n"
        f"<p class=soft>Correlation: {escape('; '.join(pairs))}.</p>"
    )


def _tables(value: Any) -> dict[str, Mapping[str, Any]]:
    """Those of a table's entries that are tables themselves."""
    return {k: v for k, v in value.items() if isinstance(v, Mapping)} if isinstance(value, Mapping) else {}


def _or_dash(value: Any) -> str:
    known = finite(value)
    return DASH if known is None else number(known)


def _terms(run: RunRecord, metrics: Sequence[Metric]) -> str:
    """What alpha buys, and the metrics that have no chart of their own."""
    strengths = ", ".join(
        f"{alpha:g}" if len(run.alphas) == 1 else f"{option} {alpha:g}" for option, alpha in run.alphas.items()
    )
    here = f" In this run it is {strengths}." if strengths else " This run has no alpha."
    terms = [(m.name, m.meaning) for m in metrics if m.key in ("samples_per_second", "nfe", "invalid")]
    reward = run.option("notes", "reward")
    terms += [("The reward", str(reward))] if reward else []
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(meaning)}</dd>" for name, meaning in terms)
    return f"<h2>What alpha buys</h2>\n<p>{escape(ALPHA + here)}</p>\n<dl class=terms>{listed}</dl>"


def _configuration(run: RunRecord) -> str:
    sections = "".join(_table(name, table) for name, table in run.options.items())
    extra = "".join(
        f"<details><summary>{title}</summary><div class=config>{_table('', run.config[key])}</div></details>"
        for key, title in (("versions", "Versions"), ("notes", "Notes"))
        if isinstance(run.config.get(key), Mapping)
    )
    command = shlex.join(["orwcfm", "run", "--config", f"{run.name}/run.toml", "--out", f"{run.name}-again"])
    data = base64.b64encode(run.config_text.encode()).decode()
    return (
        f"<h2>Configuration</h2>\n<p class=soft>To repeat this run "
        f'(<a download="run.toml" href="data:application/toml;base64,{data}">save run.toml</a>):</p>'
        f"<pre><code>{escape(command)}</code></pre>\n<div class=config>{sections}</div>\n{extra}"
    )


def _table(name: str, options: Mapping[str, Any]) -> str:
    title = f"<h3>{escape(name)}</h3>" if name else ""
    rows = "".join(
        f'<tr><th scope="row">{escape(str(key))}</th><td>{escape(written(value))}</td></tr>'
        for key, value in flat(options).items()
    )
    return f"<section>{title}<table><tbody>{rows}</tbody></table></section>"
