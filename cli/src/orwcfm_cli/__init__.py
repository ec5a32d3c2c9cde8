"""The command line of orwcfm."""
