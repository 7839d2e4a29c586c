"""Find, install and start other programs: the vendor's compiler, the frameworks' Pythons.

Import from the modules themselves: ``from edge.toolchain.find import find``.
"""
