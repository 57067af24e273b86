"""What Prometheus reads at ``/metrics``."""

from __future__ import annotations

from typing import Any

from contrastive.config.extras import require


class Metrics:
    """Counts of one server."""

    def __init__(self) -> None:
        """Begin at zero."""
        library = require("prometheus_client", extra="serve")
        self._latest: Any = library.generate_latest
        self.content_type: str = library.CONTENT_TYPE_LATEST
        self._registry: Any = library.CollectorRegistry()
        about: dict[str, Any] = {"registry": self._registry}
        self._requests: Any = library.Counter(
            "contrastive_requests", "Requests that were answered.", ["path", "status"], **about
        )
        self._seconds: Any = library.Histogram(
            "contrastive_request_seconds", "Seconds that a request took.", ["path"], **about
        )
        self._batches: Any = library.Histogram(
            "contrastive_batch_samples",
            "Samples that were embedded together.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
            **about,
        )
        self._waiting: Any = library.Gauge(
            "contrastive_waiting_samples", "Samples that wait for the model.", ["index"], **about
        )

    def request(self, path: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def batch(self, samples: int) -> None:
        """Count a batch."""
        self._batches.observe(samples)

    def waiting(self, name: str, count: int) -> None:
        """Say how many samples wait."""
        self._waiting.labels(name).set(count)

    def text(self) -> bytes:
        """Return all counts, as Prometheus reads them."""
        return self._latest(self._registry)
