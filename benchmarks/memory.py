"""How much memory a run with `w2` needs at its peak, against one without regularizer.

    python benchmarks/memory.py

Resident memory of fresh processes after two rounds. Both evaluate the reference (the metric `velocity_divergence` needs
it); what a regularizer may add is its own arithmetic, within the micro-batch.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys

from measure import default_run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", metavar="REG", help="print the peak of this regularizer's run, in MiB")
    args = parser.parse_args()
    if args.one:
        print(peak(args.one))
        return
    peaks = {reg: statistics.median(measured(reg) for _ in range(3)) for reg in ("w2", "none")}
    _, state = default_run()
    copy = sum(p.nbytes for p in state.components.backbone.policy().parameters().values()) / 2**20
    print(
        f"Peak memory of the default run is {peaks['w2']:.0f} MiB with w2 and {peaks['none']:.0f} MiB with none: "
        f"{peaks['w2'] / peaks['none']:.3f} times as much; the reference is one copy of the weights, {copy:.1f} MiB"
    )


def measured(reg: str) -> float:
    """Peak of a fresh process, in MiB."""
    done = subprocess.run([sys.executable, __file__, "--one", reg], check=True, capture_output=True, text=True)
    return float(done.stdout)


def peak(reg: str) -> float:
    """Peak of this process after two rounds, in MiB."""
    trainer, state = default_run({"reg": {"name": reg}})
    for _ in range(2):
        trainer.round(state)
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


if __name__ == "__main__":
    main()
