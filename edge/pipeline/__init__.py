"""The order of the stages of a build, and how a build runs them."""

from edge.pipeline.build import PORTABLE_STAGES, STAGES, Build

__all__ = ["PORTABLE_STAGES", "STAGES", "Build"]
