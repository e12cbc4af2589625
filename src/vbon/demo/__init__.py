"""`vbon demo`: a corpus, a reference model, pools, training, evaluation and a report, all made here."""

from vbon.demo.story import demo

__all__ = ["demo"]
