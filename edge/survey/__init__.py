"""What is known of every model of the zoo: measured size, placement on the BPU, compiled speed."""

from edge.survey.check import check_model
from edge.survey.collect import Collected, collect
from edge.survey.compare import Compared, compare
from edge.survey.measure import measure_model
from edge.survey.page import page
from edge.survey.record import (
    RECORDS,
    Checked,
    Compiled,
    Counted,
    Record,
    Records,
    keep,
    load_records,
    save_records,
)
from edge.survey.request import request_of

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
