"""Accuracy after each step from the float network to the program, on the same images."""

from edge.accuracy.answers import Away, discard_stale
from edge.accuracy.evaluation import ANSWERS, evaluate, judge_of, write_evaluation
from edge.accuracy.judge import MeasuredOn
from edge.accuracy.steps import NAMES, Missing, Step, Subject, choose, find_steps, subject_of
from edge.accuracy.table import FILE, Change, Evaluation, Mistake, OutputResult, StepName, StepResult
from edge.measure.scores import Score

__all__ = [
    "ANSWERS",
    "FILE",
    "NAMES",
    "Away",
    "Change",
    "Evaluation",
    "MeasuredOn",
    "Missing",
    "Mistake",
    "OutputResult",
    "Score",
    "Step",
    "StepName",
    "StepResult",
    "Subject",
    "choose",
    "discard_stale",
    "evaluate",
    "find_steps",
    "judge_of",
    "subject_of",
    "write_evaluation",
]
