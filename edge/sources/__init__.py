"""The user's words to a spec and a float ONNX: zoo, files, frameworks, downloads.

``resolve`` says what is wanted; ``choose_weights`` talks to the network and to the caches and returns a
concrete choice; ``export`` is a pure function of that choice, so a build can be keyed by
``Resolved.identity`` before anything is made.
"""
