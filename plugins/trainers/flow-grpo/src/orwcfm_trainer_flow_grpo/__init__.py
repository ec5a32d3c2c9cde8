"""Trainer flow-grpo for orwcfm: policy gradients on stochastic paths."""
