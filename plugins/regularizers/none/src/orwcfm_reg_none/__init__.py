"""No regularizer for orwcfm: the reference does not hold the policy."""
