"""Shared by accuracy, diagnose and tune: networks, scores, statistics, layers."""
