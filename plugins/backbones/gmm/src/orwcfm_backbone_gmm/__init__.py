"""A Gaussian mixture with its exact velocity field: the laboratory for theory."""
