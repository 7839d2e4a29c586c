"""What Prometheus is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from edge.serve.model import Model, Models

KIND = CONTENT_TYPE_LATEST
_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)


class Metrics:
    """Counters of a server."""

    def __init__(self, models: Models) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "edge_requests",
            "Requests for inference by what became of them: ok, or the reason of an error.",
            ("model", "protocol", "result"),
            registry=self._registry,
        )
        self._steps = Histogram(
            "edge_step_seconds",
            "Seconds of a step of an answered request: queue, decode, resize, nv12, run, post.",
            ("model", "step"),
            buckets=_SECONDS,
            registry=self._registry,
        )
        gauges: dict[str, tuple[str, Callable[[Model], float]]] = {
            "edge_queue_requests": ("Requests that wait or are computed just now.", lambda model: model.queue.inside),
            "edge_ready": ("1 if a request would be answered, else 0.", lambda model: model.ready),
            "edge_restarts": ("Times that a runtime's process ended and was started again.", lambda m: m.net.restarts),
        }
        for gauge, (what, value) in gauges.items():
            made = Gauge(gauge, what, ("model",), registry=self._registry)
            for name, model in models.items():
                made.labels(name).set_function(partial(value, model))
        self._names = frozenset(models)

    def count(self, model: str, protocol: str, result: str, seconds: Mapping[str, float]) -> None:
        """Count a request; a model that there is not has no name here, since anybody may make up many."""
        name = model if model in self._names else ""
        self._requests.labels(name, protocol, result).inc()
        for step, taken in seconds.items():
            self._steps.labels(name, step).observe(taken)

    def text(self) -> bytes:
        """Return all in Prometheus' text format."""
        return generate_latest(self._registry)
