"""The build folder: keyed stages, metadata, and how it is read back."""
