"""Regularizer adaptive-w2 for orwcfm: strength by advantage."""
