"""Run a program: on the board, in Jupyter there, or on a PC through a simulator, with the same code."""

from edge.runtime.net import Net, PassedOver
from edge.runtime.open import BACKENDS, load
from edge.runtime.protocol import Backend, Info, Tensor

__all__ = ["BACKENDS", "Backend", "Info", "Net", "PassedOver", "Tensor", "load"]
