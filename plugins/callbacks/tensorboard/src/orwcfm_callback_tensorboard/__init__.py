"""TensorBoard callback for orwcfm."""
