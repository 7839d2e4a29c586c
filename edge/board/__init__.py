"""The board over SSH: look at it, copy programs to it, measure and run them there."""

from edge.board.connection import Connection, Target
from edge.toolchain.stream import Output

__all__ = ["Connection", "Output", "Target"]
