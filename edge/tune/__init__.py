"""The precision search: recover float accuracy at int8 speed, measured on real compiles."""

from edge.measure.objective import Measured
from edge.tune.choice import Point
from edge.tune.context import SearchOptions
from edge.tune.result import FILE, TimeShare, TuneResult
from edge.tune.tune import tune

__all__ = ["FILE", "Measured", "Point", "SearchOptions", "TimeShare", "TuneResult", "tune"]
