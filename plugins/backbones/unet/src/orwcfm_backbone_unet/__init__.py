"""A small U-Net for 28x28 grey images as a backbone of orwcfm."""
