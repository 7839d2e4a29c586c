"""From the user's arguments to a spec and a float ONNX: zoo, files, frameworks, downloads.

``resolve`` finds out what is wanted; ``choose_weights`` uses the network and the caches and returns a concrete choice.
``export`` is a pure function of that choice, so ``Resolved.identity`` can key a build before anything is made.
"""
