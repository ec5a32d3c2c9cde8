"""Trainers awm, nft and rvm for orwcfm: signed rewards on the forward process."""
