"""JPEG compressibility and incompressibility rewards for orwcfm."""
