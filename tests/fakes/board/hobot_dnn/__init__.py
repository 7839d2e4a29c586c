"""A stand-in for the board's package of this name."""
