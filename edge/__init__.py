"""edge: from a model name to a checked program for the RDK X5 board."""

__version__ = "0.1.0"
