"""Channels of a float network brought to ranges that int8 steps serve well; what it computes stays."""

from edge.equalize.pairs import find_pairs
from edge.equalize.stage import EqualizedPair, EqualizeResult, equalize

__all__ = ["EqualizeResult", "EqualizedPair", "equalize", "find_pairs"]
