"""Run all short benchmarks and write what they print to benchmarks/results.md.

    python benchmarks/run.py [NAME ...]

Some minutes on two cores. Each is a process of its own; with names, only those are run and only printed.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import torch

HERE = Path(__file__).parent
SECTIONS: Mapping[str, str] = {
    "Overhead": "overhead.py",
    "Sampling": "throughput.py",
    "A slow reward": "overlap.py",
    "A reward in an environment of its own": "remote_reward.py --repeats 3",
    "Start": "startup.py",
    "Memory": "memory.py",
    "Growth": "scaling.py",
    "Switches": "switches.py",
    "Compiling": "switches.py --compile",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="scripts to run, such as overhead.py")
    args = parser.parse_args()
    began, failed = time.perf_counter(), False
    text = [
        "# Results",
        "",
        f"Written by `make bench` on {os.cpu_count()} cores ({platform.machine()}), torch {torch.__version__}, Python "
        f"{platform.python_version()}. Ratios are measured in one run,",
        f"one after the other in each repeat. Load of the machine before it began: {os.getloadavg()[0]:.1f}.",
        "Against other methods: rivals.md.",
    ]
    for title, command in SECTIONS.items():
        if args.names and command.split()[0] not in args.names:
            continue
        done = subprocess.run(
            [sys.executable, HERE / command.split()[0], *command.split()[1:]], stdout=subprocess.PIPE, text=True
        )
        failed |= done.returncode != 0
        lines = done.stdout.splitlines() or ["failed"]
        print(f"{title}: ", *lines, sep="\n  ", flush=True)
        text += ["", f"## {title}", "", f"    python benchmarks/{command}", "", *(f"* {line}" for line in lines)]
    if not args.names and not failed:
        text += ["", f"All of it took {(time.perf_counter() - began) / 60:.1f} minutes."]
        (HERE / "results.md").write_text("\n".join(text) + "\n")
    sys.exit(failed)


if __name__ == "__main__":
    main()
