"""Stable Diffusion 3 with LoRA as a backbone of orwcfm."""
