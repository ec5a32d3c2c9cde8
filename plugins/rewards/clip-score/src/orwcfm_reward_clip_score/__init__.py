"""CLIP score reward for orwcfm: how well an image fits its prompt."""
