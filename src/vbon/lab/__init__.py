"""The lab: policies small enough to enumerate, where every claim about best-of-N has an exact answer."""
