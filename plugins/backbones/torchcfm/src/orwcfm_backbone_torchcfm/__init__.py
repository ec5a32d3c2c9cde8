"""U-Nets that TorchCFM trained, as a backbone of orwcfm."""
