"""How long commands take to start, beside an interpreter that does nothing.

    python benchmarks/startup.py

Wall time of whole processes; the shortest of several counts. The plugins are those of the environment, and fifteen
distributions of one each.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from measure import alternating
from orwcfm_core.testing import FakeDistribution

COMMANDS: Mapping[str, tuple[str, ...]] = {
    "orwcfm --help": ("--help",),
    "orwcfm plugins list": ("plugins", "list"),
    "orwcfm run --print-config": ("run", "--print-config"),
}
ENTRY = "from orwcfm_cli.main import main; main()"
PLUGIN = Path(__file__).parents[1] / "plugins/rewards/jpeg/src/orwcfm_reward_jpeg/plugin.py"
DISTRIBUTIONS = 15


def start(code: str, *arguments: str, path: str = "") -> None:
    """Run a fresh interpreter to its end; it finds what is in the folder `path`."""
    env = os.environ | {"PYTHONPATH": path}
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, stdout=subprocess.DEVNULL, env=env)


def distributions(folder: Path) -> None:
    """Write distributions of a reward each."""
    source = PLUGIN.read_text()
    for i in range(DISTRIBUTIONS):
        name, module = f"fake-{i}", f"fake_{i}"
        modules = {f"{module}.py": source.replace("jpeg-compressibility", name)}
        FakeDistribution(folder, name, {"reward": {name: module}}, modules)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        distributions(Path(folder))
        calls: dict[str, Callable[[], None]] = {"nothing": partial(start, ""), "torch": partial(start, "import torch")}
        calls |= {name: partial(start, ENTRY, *arguments, path=folder) for name, arguments in COMMANDS.items()}
        found = alternating(calls, repeats=7, clock=time.perf_counter)
    for name in COMMANDS:
        print(f"`{name}` takes {min(found[name]):.2f} s")
    nothing, torch = min(found["nothing"]), min(found["torch"])
    print(f"For comparison, `python -c ''` takes {nothing:.2f} s and `import torch` {torch:.2f} s")


if __name__ == "__main__":
    main()
