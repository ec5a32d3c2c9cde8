"""Trainers rwr, raft and reft for orwcfm: regression on samples of positive weight."""
