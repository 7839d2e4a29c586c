"""From a detector's outputs to boxes: decode, thin out, draw; numpy and OpenCV alone, as on the board."""

from edge.detect.decode import Boxes, decode
from edge.detect.draw import draw

__all__ = ["Boxes", "decode", "draw"]
