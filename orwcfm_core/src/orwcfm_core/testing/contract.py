"""Checks of what every plugin says before it is built, and that it can be built."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from pydantic import ValidationError

from orwcfm_core.heavy import HEAVY
from orwcfm_core.layers import has_null
from orwcfm_core.plugin import RESERVED, RESERVED_REG
from orwcfm_core.testing.subject import Subject
from orwcfm_core.testing.tools import expect

__all__ = [
    "CHECKS",
    "builds",
    "described",
    "example",
    "frozen",
    "light_module",
    "loads",
    "option_names",
    "round_trip",
]

_IMPORT = """
import importlib, json, os, sys
sys.path[:] = json.loads(sys.argv[1])
importlib.import_module(sys.argv[2])
print("\\n" + json.dumps(sorted(set(json.loads(sys.argv[3])) & set(sys.modules))), flush=True)
os._exit(0)
"""
"""The last line is the answer, whatever the module prints, now or at exit."""


def loads(subject: Subject) -> None:
    """The light module can be imported, and its hook returns a spec of this name."""
    _ = subject.spec


def light_module(subject: Subject) -> None:
    """The light module imports no torch, so that `orwcfm --help` stays fast."""
    module = subject.plugin.entry.module
    command = [sys.executable, "-c", _IMPORT, json.dumps(sys.path), module, json.dumps(HEAVY)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    expect(done.returncode == 0, f"importing {module} failed: {(done.stderr.splitlines() or ['no message'])[-1]}")
    heavy = json.loads(done.stdout.splitlines()[-1])
    expect(not heavy, f"{module} imports {', '.join(heavy)}: import it in the factory's module instead")


def described(subject: Subject) -> None:
    """Every option has a description."""
    bare = [name for name, field in subject.spec.config.model_fields.items() if not field.description]
    expect(not bare, f"no description of the options {', '.join(bare)}: give Field(..., description=...)")


def option_names(subject: Subject) -> None:
    """No option has a name that belongs to the run."""
    reserved = RESERVED | (RESERVED_REG if subject.plugin.kind == "regularizer" else frozenset())
    taken = sorted(reserved & set(subject.spec.config.model_fields))
    expect(not taken, f"the option names {', '.join(taken)} belong to the run: rename them")


def frozen(subject: Subject) -> None:
    """Options cannot change once read, and unknown ones are errors."""
    settings = subject.spec.config.model_config
    expect(
        settings.get("frozen") is True and settings.get("extra") == "forbid",
        "expected frozen=True and extra='forbid': derive the config from ComponentConfig and leave its model_config",
    )


def example(subject: Subject) -> None:
    """The options that it is tried with are valid, and so is the rest of the spec's example."""
    given = subject.spec.example
    expect(
        len(given.prompts) == 2 and given.prompts[0] != given.prompts[1],
        f"expected two different prompts in the spec's example, got {given.prompts!r}",
    )
    expect(
        bool(given.shape) and all(size > 0 for size in given.shape),
        f"expected sizes above 0 in the shape of the spec's example, got {given.shape!r}",
    )
    with _explained("give valid options, or set them in the spec's example"):
        _ = subject.config


def round_trip(subject: Subject) -> None:
    """Options that are written to run.toml read back to the same, and so do the defaults."""
    model = subject.spec.config
    optional = not any(field.is_required() for field in model.model_fields.values())
    for config in (subject.config, *([model()] if optional else [])):
        table = json.loads(json.dumps(config.model_dump(mode="json", exclude_none=True)))
        holed = [name for name, value in table.items() if has_null(value)]
        expect(not holed, f"None within the options {', '.join(holed)}, which run.toml cannot hold: use another value")
        with _explained("it is the option's own value, refused when read back: correct its default or its validator"):
            again = model.model_validate(table)
        changed = [name for name in model.model_fields if getattr(config, name) != getattr(again, name)]
        expect(not changed, f"the options {', '.join(changed)} read back as something else after they were written")


@contextmanager
def _explained(advice: str) -> Iterator[None]:
    """Turn pydantic's page into a line about the first option that is wrong."""
    try:
        yield
    except ValidationError as e:
        first = e.errors()[0]
        option = ".".join(map(str, first["loc"])) or "options"
        raise AssertionError(f"{option}: {first['msg']}, got {first['input']!r}: {advice}") from e


def builds(subject: Subject) -> None:
    """The factory builds an instance of the kind's base class."""
    _ = subject.component


CHECKS: Sequence[Callable[[Subject], None]] = (
    loads,
    light_module,
    described,
    option_names,
    frozen,
    example,
    round_trip,
    builds,
)
"""In the order in which they run."""
