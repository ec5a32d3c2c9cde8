"""Random input, from nearly right to nonsense."""

from __future__ import annotations

import json
import random
import tomllib
from collections.abc import Callable
from typing import Any

import tomli_w
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

SECTIONS = ("backbone", "reward", "heldout", "reg", "weighting", "sampler", "train", "callback")
NAMES = (
    *("unet", "gmm", "clip-score", "component", "class-probability", "jpeg-compressibility", "w2", "kl", "none"),
    *("advantage", "exp", "softmax", "top-k", "euler", "midpoint", "heun", "adams", "rk4", "dopri5", "orw-cfm"),
    "tensorboard",
)
OPTIONS = (
    *("name", "weights", "conditional", "guidance", "dim", "components", "radius", "std", "width", "model", "labels"),
    *("pretrained", "prompt", "combine", "weight", "normalise", "window", "on_error", "timeout", "quality", "values"),
    *("alpha", "tau", "clip", "fraction", "steps", "ema", "rtol", "atol", "rounds", "samples", "group", "updates"),
    *("draws", "coupling", "lr", "warmup", "decay", "clip_norm", "micro_batch", "seed", "device", "precision", "keep"),
    *("checkpoint_every", "grid_every", "max_skipped", "early_stop", "eval_samples", "python", *NAMES),
)
FLAGS = (
    *("--backbone", "--reward", "--eval-reward", "--reg", "--trainer", "--weighting", "--sampler", "--alpha", "--tau"),
    *("--rounds", "--early-stop", "--seed", "--device", "--prompt", "--callback", "--set", "--config", "--out"),
    *("--json", "--help", "-h", "--version", "--no-plugins", "--count", "--reference", "--nonsense", "--", "-x"),
)

# What a command line can carry: no NUL; bytes that are no UTF-8 arrive as surrogates. A message is a line.
ODD_TEXT = st.text(st.characters(exclude_characters="\0\r\n"), max_size=12)
WORDS = st.sampled_from(
    (
        *(
            "",
            " ",
            "0",
            "-1",
            "1",
            "2",
            "8",
            "1e4",
            "0.5",
            "nan",
            "inf",
            "-inf",
            "true",
            "no",
            "1_000",
            "0x10",
            "1e999",
        ),
        *("a boot", "a bag", "footwear", "fail", "drop", "retry(2)", "penalise(-1)", "penalise(1e99)", "auto", "cpu"),
        *("sum", "product", "minimum", "z-score", "per-prompt", "fashion", "mnist", "small", "ViT-B-32", "gone.toml"),
        *(
            "[1, 2]",
            "[",
            "{",
            '{"a": 1}',
            "[[]]",
            '["w2", "kl"]',
            "w2:0.1",
            "w2:",
            ":",
            "@",
            "a@b",
            "9" * 400,
            "../x",
            "\x1b[31m",
        ),
    )
)
TEXTS = WORDS | st.sampled_from(NAMES) | ODD_TEXT
NUMBERS = st.one_of(
    st.integers(-3, 300),
    st.integers(),
    st.floats(allow_subnormal=False),
    st.sampled_from([10**400, -(10**25), 2**63, 1e308, 5e-300]),
)
VALUES: SearchStrategy[Any] = st.recursive(
    NUMBERS | st.booleans() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(OPTIONS) | ODD_TEXT, inner, max_size=3),
    max_leaves=4,
)
KEYS = st.sampled_from(OPTIONS) | ODD_TEXT
SECTION_KEYS = st.one_of(*[st.sampled_from(SECTIONS)] * 5, ODD_TEXT)
NAMED = st.sampled_from(NAMES) | st.lists(st.sampled_from(NAMES), max_size=3) | TEXTS


@st.composite
def configurations(draw: Any) -> dict[str, Any]:
    """Tables of options, some of which exist."""
    tables: dict[str, Any] = {}
    for section in draw(st.lists(SECTION_KEYS, max_size=4, unique=True)):
        table = draw(st.dictionaries(KEYS, VALUES, max_size=3))
        if draw(st.booleans()):
            table["name"] = draw(NAMED)
        tables[section] = table
    if draw(st.integers(0, 30)) == 0:
        tables[draw(ODD_TEXT)] = draw(VALUES)
    return tables


@st.composite
def assignments(draw: Any) -> str:
    """What follows `--set`."""
    parts = [draw(SECTION_KEYS), draw(KEYS)] + [draw(KEYS)] * draw(st.sampled_from([0, 0, 0, 1]))
    value = draw(TEXTS | VALUES.map(lambda value: value if isinstance(value, str) else json.dumps(value)))
    return draw(st.sampled_from([".".join(parts) + f"={value}"] * 9 + [".".join(parts), f"={value}"]))


ARGUMENTS = st.one_of(
    st.sampled_from(FLAGS).map(lambda flag: [flag]),
    st.tuples(st.sampled_from(FLAGS), TEXTS).map(list),
    assignments().map(lambda text: ["--set", text]),
    assignments().map(lambda text: ["--set", text]),
    TEXTS.map(lambda text: [text]),
)


@st.composite
def command_lines(draw: Any) -> list[str]:
    """What follows `orwcfm`: any command, whatever it is given; `run` only prints what it would do."""
    command = draw(st.sampled_from(["run"] * 6 + ["resume", "sample", "report", "plugins", "new", "nonsense"]))
    rest = [word for part in draw(st.lists(ARGUMENTS, max_size=5)) for word in part]
    if command == "run":
        # In front, where no flag takes it for its value.
        return ["run", "--print-config", *rest]
    if command == "plugins":
        return [command, draw(st.sampled_from(["list", "show", "nonsense"])), *rest]
    if command == "new":
        return [command, draw(st.sampled_from(["reward", "backbone", "regularizer", "nonsense"])), *rest]
    return [command, *(draw(st.sampled_from([[], ["run"], ["gone"]]))), *rest]


EXTREMES: dict[str, list[Any]] = {
    "backbone.dim": [1, 2, 5],
    "backbone.components": [2, 5],
    "backbone.radius": [1e-30, 1, 100],
    "backbone.std": [0.01, 0.5, 10],
    "backbone.width": [1, 4],
    "reward.values": [[1, 0.5], [0, 0], [1e4, -1e4], [1e-30], [3e38, -3e38], [1e300]],
    "reward.weight": [1, 0, -1, 1e30, 1e-30, 1e300],
    "reward.normalise": ["none", "z-score", "per-prompt"],
    "reward.window": [2, 1000],
    "reward.on_error": ["fail", "drop", "retry(1)", "penalise(-1e30)"],
    "reward.combine": ["sum", "product", "minimum"],
    "heldout.name": ["none", "component"],
    "reg.name": ["w2", "kl", "none"],
    "reg.alpha": [0, 1e-30, 1, 1e30, 1e300, "inf"],
    "weighting.name": ["advantage", "exp", "softmax", "top-k"],
    "weighting.tau": [0, 1e-30, 1, 1e6],
    "weighting.clip": [1e-30, 1, 100],
    "weighting.fraction": [1e-30, 0.5, 1],
    "sampler.name": ["euler", "midpoint", "heun", "adams", "rk4", "dopri5"],
    "sampler.steps": [1, 3],
    "sampler.ema": [0, 0.5, 0.999999999],
    "sampler.rtol": [1e-3, 1],
    "train.lr": [1e-30, 1e-3, 1],
    "train.clip_norm": [1e-30, 1, 1e30, "inf"],
    "train.samples": [2, 3, 12],
    "train.group": [2, 3],
    "train.updates": [1, 2],
    "train.draws": [1, 3],
    "train.coupling": ["independent", "optimal-transport"],
    "train.warmup": [0, 10**9],
    "train.decay": [0, 1],
    "train.micro_batch": [1, 5, 10**9],
    "train.seed": [0, 2**63 - 1],
    "train.precision": ["auto", "fp32", "bf16"],
    "train.keep": [1, 10**9],
    "train.checkpoint_every": [1, 10**9],
    "train.grid_every": [1, 10**9],
    "train.max_skipped": [1, 3, 10**9],
    "train.early_stop": [0, 1, 10**9],
    "train.eval_samples": [2, 5],
    "train.rounds": [1, 2, 3],
    "reward.prompt": ["", "a", "ß\N{SNOWMAN}"],
}


@st.composite
def extremes(draw: Any) -> list[str]:
    """Settings of a small run that are all allowed, or nearly."""
    chosen = draw(st.lists(st.sampled_from(list(EXTREMES)), max_size=9, unique=True))
    settings = [
        f"{option}={json.dumps(v) if isinstance(v, list) else v}"
        for option in chosen
        for v in [draw(st.sampled_from(EXTREMES[option]))]
    ]
    return [part for setting in settings for part in ("--set", setting)]


def mutated(data: bytes, seed: int, value: Any) -> bytes:
    """A file with something else in it: bytes that are changed, or a value in its structure that is."""
    chance = random.Random(seed)
    if chance.random() < 0.6:
        try:
            return _restructured(data, chance, value)
        except (ValueError, TypeError, AttributeError):
            # Not all values can be written in all formats.
            pass
    for _ in range(chance.randrange(1, 4)):
        at, to = sorted(chance.randrange(len(data) + 1) for _ in range(2))
        junk = chance.randbytes(chance.randrange(1, 8))
        match chance.randrange(7):
            case 0:
                data = data[:at]
            case 1:
                data = data[:at] + data[min(to, at + 20) :]
            case 2:
                data = data[:at] + junk + data[at:]
            case 3:
                data = data[:at] + junk + data[at + len(junk) :]
            case 4:
                data = data[:at] + data[at : at + 80] + data[at:]
            case 5:
                data = (
                    data[:at]
                    + chance.choice([b"\n", b"[" * 5000, b'{"a":' * 3000, b"1e999", b"null", b"NaN"])
                    + data[at:]
                )
            case 6:
                data = data[:at] + str(chance.choice([-1, 0, 10**30, 1.5])).encode() + data[at + 1 :]
    return data


def _restructured(data: bytes, chance: random.Random, value: Any) -> bytes:
    text = data.decode()
    if text.startswith("["):
        tables = tomllib.loads(text)
        return tomli_w.dumps(_replaced(tables, chance, value)).encode()
    if text.count("\n{") or text.startswith('{"round"'):
        lines = text.splitlines()
        at = chance.randrange(len(lines))
        lines[at] = json.dumps(_replaced(json.loads(lines[at]), chance, value))
        return "\n".join(lines).encode()
    return json.dumps(_replaced(json.loads(text), chance, value)).encode()


def _replaced(tree: Any, chance: random.Random, value: Any) -> Any:
    """The same tree with one of its branches replaced, removed or renamed."""
    if not isinstance(tree, dict) or not tree or chance.random() < 0.1:
        return value
    key = chance.choice(list(tree))
    match chance.randrange(8):
        case 0:
            del tree[key]
        case 1:
            tree[chance.choice([*OPTIONS, *SECTIONS, "rewards", "correlations", "round"])] = value
        case 2:
            tree[f"{key}x"] = tree.pop(key)
        case _:
            tree[key] = _replaced(tree[key], chance, value)
    return tree


def check(strategy: SearchStrategy[Any], test: Callable[[Any], None], cases: int) -> None:
    """Try a test on that many cases, the same ones every time."""
    quiet = settings(
        max_examples=cases,
        derandomize=True,
        database=None,
        deadline=None,
        # Cases that fail are small enough to read, and each takes too long to look for smaller ones.
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    quiet(given(strategy)(test))()
