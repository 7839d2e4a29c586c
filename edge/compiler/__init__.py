"""From a model spec to the mapper's YAML, checked before the compiler sees it.

``render`` fills the template, ``lint`` runs the rules; the ``rules_…`` modules hold a small function each.
"""
