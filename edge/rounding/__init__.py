"""Weights rounded for the compiler's int8 steps before it sees them, so that their errors cancel out."""

from edge.rounding.stage import RoundedLayer, RoundResult, round_weights

__all__ = ["RoundResult", "RoundedLayer", "round_weights"]
