"""What HTTP and gRPC say of an error, and what the operator reads of it."""

from __future__ import annotations

import logging

from edge.errors import EdgeError, InputError, ServeError, UsageError

# Reason -> HTTP's status, and the name of gRPC's.
STATUS = {
    "invalid": (400, "INVALID_ARGUMENT"),
    "unknown": (404, "NOT_FOUND"),
    "large": (413, "RESOURCE_EXHAUSTED"),
    "full": (429, "UNAVAILABLE"),
    "stopping": (503, "UNAVAILABLE"),
    "late": (504, "DEADLINE_EXCEEDED"),
    "failed": (500, "INTERNAL"),
}
log = logging.getLogger("edge.serve")


def reason_of(error: Exception) -> tuple[str, str]:
    """Return the reason of an error, a key of ``STATUS``, and what the client is told."""
    if isinstance(error, ServeError):
        return error.reason, str(error)
    if isinstance(error, (UsageError, InputError)):
        return "invalid", str(error)
    if isinstance(error, EdgeError):
        log.error("%s", error)  # with what its operator can do, and no client
        remedy = "send it again; if it fails again, tell the server's operator, whose log says more"
        return "failed", str(EdgeError(error.seen, remedy=remedy))
    log.error("unexpected %s: %s", type(error).__name__, error, exc_info=log.isEnabledFor(logging.DEBUG))
    return "failed", f"unexpected {type(error).__name__}; the server's log says more"
