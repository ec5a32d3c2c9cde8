"""How long commands take to start, beside an interpreter that does nothing.

    python benchmarks/startup.py

Wall time of whole processes; the shortest of several counts.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial

from measure import alternating

COMMANDS: Mapping[str, tuple[str, ...]] = {
    "orwcfm --help": ("--help",),
    "orwcfm plugins list": ("plugins", "list"),
    "orwcfm run --print-config": ("run", "--print-config"),
}
ENTRY = "from orwcfm_cli.main import main; main()"


def start(code: str, *arguments: str) -> None:
    """Run a fresh interpreter to its end."""
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    calls: dict[str, Callable[[], None]] = {"nothing": partial(start, ""), "torch": partial(start, "import torch")}
    calls |= {name: partial(start, ENTRY, *arguments) for name, arguments in COMMANDS.items()}
    found = alternating(calls, repeats=7, clock=time.perf_counter)
    for name in COMMANDS:
        print(f"`{name}` takes {min(found[name]):.2f} s")
    nothing, torch = min(found["nothing"]), min(found["torch"])
    print(f"For comparison, `python -c ''` takes {nothing:.2f} s and `import torch` {torch:.2f} s")


if __name__ == "__main__":
    main()
