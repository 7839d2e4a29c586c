"""The vendor's compiler: recipe to YAML to program; its linter, logs, failures, memory estimate.

``render`` fills the template, ``lint`` runs the rules; the ``rules_…`` modules hold a small function each.
"""
