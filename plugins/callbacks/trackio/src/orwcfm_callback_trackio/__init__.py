"""Trackio callback for orwcfm."""
