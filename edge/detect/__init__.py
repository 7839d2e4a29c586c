"""From a detector's outputs to boxes: decode, thin out, draw; numpy and OpenCV alone, as on the board."""

from edge.detect.decode import Boxes, decode

__all__ = ["Boxes", "decode"]
