"""The precision search: float accuracy back at int8 speed, measured on real compiles."""

from edge.tune.context import Options
from edge.tune.result import FILE, Front, Measured, Point, TimeShare, TuneResult
from edge.tune.tune import tune

__all__ = ["FILE", "Front", "Measured", "Options", "Point", "TimeShare", "TuneResult", "tune"]
