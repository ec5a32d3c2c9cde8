"""What the tests of the command line share."""

import sys
from pathlib import Path

ORWCFM = str(Path(sys.executable).with_name("orwcfm"))
"""The script, as it is installed."""

SMALL = ("--rounds", "2", "--set", "train.samples=16", "--set", "train.updates=1", "--set", "sampler.steps=2")
"""Options that make a run end in seconds."""
