"""The one quantile of the normal distribution that intervals are made with."""

NORMAL_95 = 1.959963984540054
"""Standard errors on either side of a 95 % interval."""
