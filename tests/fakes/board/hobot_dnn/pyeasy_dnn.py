"""A stand-in for the compiled module of this name."""

from fake_pyeasy_dnn import load

__all__ = ["load"]
__name__ = "dnnpy"  # as the compiled one
