"""The webhook: what an API server calls over TLS before it creates a Pod.

    TLS_CERT_FILE=tls.crt TLS_KEY_FILE=tls.key python3 server.py

A review's way: `connection.py` reads it, `WebhookHandler.do_POST` dispatches it,
`admission.py` says what it is about, the lookup service finds the names as for any
lookup, and `admission.py` makes the answer of it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Coroutine, Mapping
from time import perf_counter
from typing import Any

from common.connection import ConnectionHandler, ConnectionServer
from common.errors import (
    MethodNotAllowed,
    NotFound,
    ServiceError,
    ShuttingDown,
    UnsupportedMediaType,
    shown,
)
from common.metrics import Counter, Family, Gauge, Histogram
from lookup.lookups import Lookups
from lookup.placement import Answer, names_in
from lookup.resolver import Result
from webhook.admission import (
    MAX_REVIEW,
    Decision,
    Review,
    decide,
    defect,
    patience_in,
    review_in,
)
from webhook.certificate import Certificate

__all__ = ["WebhookHandler", "WebhookServer"]

# Whoever can reach the port can open them, and each may take 80 kB. An API server needs one for
# each Pod that is being created.
MAX_CONNECTIONS = 512

ENDPOINTS = ("/mutate", "/healthz", "/readyz")


class WebhookServer(ConnectionServer):
    """What the webhook's connections share: the lookup service, the certificate, the metrics."""

    def __init__(
        self, lookups: Lookups, requests: Counter, certificate: Certificate, max_connections: int
    ) -> None:
        super().__init__(WebhookHandler, min(MAX_CONNECTIONS, max_connections))
        self.lookups = lookups
        self.requests = requests
        self.certificate = certificate
        self.reviews = Counter(
            "reviews_total", "Reviews answered, by what came of the Pod.", "outcome", "reason"
        )
        self.reviews.begin(("Placed", ""), ("Defect", "InternalError"))
        self.durations = Histogram("review_duration_seconds", "From a review to its answer.")
        self._watching: asyncio.Task[None] | None = None

    def metrics(self) -> list[Family]:
        """All families, in the order they are shown."""
        return [
            self.reviews,
            self.durations,
            *self.certificate.metrics(),
            Gauge(
                "webhook_open_connections",
                "Open connections to the webhook.",
                lambda: len(self.connections),
            ),
        ]

    def why_unready(self) -> ServiceError | None:
        """Why it is not ready for reviews; None if it is."""
        if self.draining:
            return ShuttingDown("the service is shutting down")
        return self.certificate.why_useless()

    def tls_context(self) -> ssl.SSLContext:
        return self.certificate.context

    async def listen(self, listener: socket.socket) -> None:
        await super().listen(listener)
        self._watching = asyncio.create_task(self.certificate.watch())


class WebhookHandler(ConnectionHandler):
    """Answers reviews and probes."""

    server: WebhookServer
    server_version = "automatic-zone-placement"
    max_body = MAX_REVIEW

    def do_GET(self) -> Coroutine[Any, Any, None] | None:
        path = self.path.partition("?")[0]
        if path == "/mutate":
            raise MethodNotAllowed(f"reviews are sent with POST, not {self.command}", "POST")
        if path not in ENDPOINTS:
            raise NotFound(f"there is nothing at {shown(path)}, but at {', '.join(ENDPOINTS)}")
        self.send_health(self.server.why_unready() if path == "/readyz" else None)
        return None

    def do_POST(self) -> Coroutine[Any, Any, None] | None:
        """Answers now, or else when DNS has answered or had its time."""
        started = perf_counter()
        path, _, query = self.path.partition("?")
        if path != "/mutate":
            raise MethodNotAllowed(f"there are no reviews at {shown(path)}, but at /mutate")
        if self.media_type != "application/json":
            raise UnsupportedMediaType(f"{shown(self.media_type)} is not application/json")
        review = review_in(self.body)
        self.body = bytearray()  # it need not be there while DNS is waited for
        try:
            return self.review(started, review, patience_in(query))
        except Exception as error:
            self.send_defect(started, review, error)
        return None

    def review(
        self, started: float, review: Review, patience: float
    ) -> Coroutine[Any, Any, None] | None:
        if review.why_not:
            self.send_decision(started, review, decide(review, None))
            return None
        try:
            names = names_in(f"fqdn={review.names}")
        except ServiceError as error:
            self.send_outcome(started, review, error)
            return None
        found = self.server.lookups.find_at_once(names)
        if None in found.values():
            return self.review_in_time(started, review, found, patience)
        self.send_results(started, review, found)  # type: ignore[arg-type]  # none is None
        return None

    async def review_in_time(
        self, started: float, review: Review, found: Mapping[str, Result | None], patience: float
    ) -> None:
        try:
            results = await self.server.lookups.find_rest(found, patience)
            self.send_results(started, review, results)
        except Exception as error:
            self.send_defect(started, review, error)

    def send_results(self, started: float, review: Review, results: Mapping[str, Result]) -> None:
        self.send_outcome(started, review, self.server.lookups.answer(results))

    def send_outcome(self, started: float, review: Review, outcome: Answer | ServiceError) -> None:
        self.server.lookups.account(outcome, perf_counter() - started)
        self.send_decision(started, review, decide(review, outcome))

    def send_decision(self, started: float, review: Review, decision: Decision) -> None:
        """Answers the review and accounts for it: its line in the log, its duration, its outcome."""
        self.send_json(200, decision.body)
        self.server.reviews.increment(decision.outcome, decision.reason)
        found = f"reason={decision.reason}" if decision.reason else f"zone={decision.zone}"
        duration = perf_counter() - started
        self.server.durations.observe(duration)
        names = shown(review.names)
        logging.info("review %s %s %s ms=%.2f", shown(review.pod), names, found, duration * 1000)

    def send_defect(self, started: float, review: Review, error: Exception) -> None:
        """Answers all the same: no Pod is to be refused for that."""
        logging.error("reviewing %s", shown(review.pod), exc_info=error)
        self.server.lookups.outcomes.increment("InternalError")
        self.send_decision(started, review, defect(review))

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Counts the answer; what is logged has a line of its own."""
        path = self.path.partition("?")[0]
        endpoint = path if path in ENDPOINTS else "other"
        self.server.requests.increment(endpoint, str(int(code)))
