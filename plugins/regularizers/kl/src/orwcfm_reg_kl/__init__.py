"""Path-space KL regularizer for orwcfm."""
