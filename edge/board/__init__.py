"""The board over SSH: look at it, copy programs to it, measure and run them there."""

from edge.board.connection import Connection, Target
from edge.toolchain.process import CommandOutput

__all__ = ["CommandOutput", "Connection", "Target"]
