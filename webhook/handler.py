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
from collections.abc import Coroutine
from time import perf_counter
from typing import Any

from common.connection import ConnectionHandler, ConnectionServer
from common.errors import (
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    ServiceError,
    ShuttingDown,
    UnsupportedMediaType,
    shown,
)
from common.metrics import Counter, Family, Gauge, Histogram
from lookup.lookups import Lookups, names_in
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

# Who asks for the names of a review; a label of the metrics.
ASKER = "webhook"

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

    def do_POST(self) -> Coroutine[Any, Any, None]:
        path, _, query = self.path.partition("?")
        if path != "/mutate":
            raise MethodNotAllowed(f"there are no reviews at {shown(path)}, but at /mutate")
        if self.media_type != "application/json":
            raise UnsupportedMediaType(f"{shown(self.media_type)} is not application/json")
        review = review_in(self.body)
        self.body = bytearray()  # it need not be there while DNS is waited for
        return self.review(review, patience_in(query))

    async def review(self, review: Review, patience: float) -> None:
        """Answers all the same if the service fails: no Pod is to be refused for that."""
        started = perf_counter()
        try:
            decision = await self.decision(review, patience)
        except Exception as error:
            logging.error("reviewing %s", shown(review.pod), exc_info=error)
            decision = defect(review)
        self.send_decision(started, review, decision)

    async def decision(self, review: Review, patience: float) -> Decision:
        if review.why_not:
            return decide(review, None)
        lookups = self.server.lookups
        try:
            names = names_in(review.names)
        except InvalidRequest as error:
            lookups.count(error, ASKER)
            return decide(review, error)
        return decide(review, await lookups.find(names, ASKER, patience))

    def send_decision(self, started: float, review: Review, decision: Decision) -> None:
        """Answers the review and accounts for it: its line in the log, its duration, its outcome."""
        self.send_json(200, decision.body)
        self.server.reviews.increment(decision.outcome, decision.reason)
        found = f"reason={decision.reason}" if decision.reason else f"zone={decision.zone}"
        duration = perf_counter() - started
        self.server.durations.observe(duration)
        names = shown(review.names)
        logging.info("review %s %s %s ms=%.2f", shown(review.pod), names, found, duration * 1000)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Counts the answer; what is logged has a line of its own."""
        path = self.path.partition("?")[0]
        endpoint = path if path in ENDPOINTS else "other"
        self.server.requests.increment(endpoint, str(int(code)))
