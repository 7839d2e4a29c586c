"""One module a backend; each has ``open_backend(program) -> Backend``."""
