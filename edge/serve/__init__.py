"""Serve programs to other programs and to a browser: the Open Inference Protocol over HTTP and gRPC."""
