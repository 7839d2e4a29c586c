"""Attention in the form that the BPU runs fast, with the same answers."""

from edge.prepare.attention.layout import Attention, lay_out

__all__ = ["Attention", "lay_out"]
