"""Shared ground of accuracy, diagnose and tune: networks, scores, statistics, layers."""
