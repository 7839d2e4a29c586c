"""Measurements of every model of the zoo: size, placement on the BPU, compiled speed."""

from edge.survey.check import check_model, measure_model, request_of
from edge.survey.collect import Collected, collect
from edge.survey.page import Compared, compare, page
from edge.survey.record import RECORDS, Checked, Compiled, Counted, Record, Records, keep, load_records, save_records

__all__ = [
    "RECORDS",
    "Checked",
    "Collected",
    "Compared",
    "Compiled",
    "Counted",
    "Record",
    "Records",
    "check_model",
    "collect",
    "compare",
    "keep",
    "load_records",
    "measure_model",
    "page",
    "request_of",
    "save_records",
]
