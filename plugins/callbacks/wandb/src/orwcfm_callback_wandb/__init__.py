"""Weights & Biases callback for orwcfm."""
