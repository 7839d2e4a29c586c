"""Shared ground of evaluate, diagnose and tune: networks, scores, statistics, layers."""
