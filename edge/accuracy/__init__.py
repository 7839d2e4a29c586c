"""Accuracy after each step from the float network to the program, on the same pictures."""

from edge.accuracy.answers import discard_stale
from edge.accuracy.evaluation import ANSWERS, Pictures, evaluate, write_evaluation
from edge.accuracy.hops import NAMES, Hop, Missing, Subject, choose, find_hops, subject_of
from edge.accuracy.table import FILE, Change, Evaluation, HopName, HopResult, Mistake
from edge.measure.scores import Score

__all__ = [
    "ANSWERS",
    "FILE",
    "NAMES",
    "Change",
    "Evaluation",
    "Hop",
    "HopName",
    "HopResult",
    "Missing",
    "Mistake",
    "Pictures",
    "Score",
    "Subject",
    "choose",
    "discard_stale",
    "evaluate",
    "find_hops",
    "subject_of",
    "write_evaluation",
]
