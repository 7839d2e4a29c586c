"""Find, install and run the vendor's compiler; turn its logs and tables into data; nothing else.

Import from the modules themselves: ``from edge.toolchain.find import find``.
"""
