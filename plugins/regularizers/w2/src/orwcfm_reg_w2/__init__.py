"""Wasserstein (W2) regularizer for orwcfm: mean squared velocity difference."""
