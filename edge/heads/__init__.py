"""A detector's head: recognise how it codes boxes, cut it off where the BPU should stop, and prove the cut."""

from edge.heads.taken import Taken, take

__all__ = ["Taken", "take"]
