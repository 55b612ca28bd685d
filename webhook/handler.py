"""The webhook: what an API server calls over TLS before it creates a Pod.

    TLS_CERT_FILE=tls.crt TLS_KEY_FILE=tls.key python3 server.py

A review's way: the connection reads it, `WebhookHandler.do_POST` dispatches it,
`admission.py` says what it is about, the lookups find its names as they find all,
and `admission.py` makes the answer of it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from time import perf_counter

from common.errors import (
    InvalidRequest,
    MethodNotAllowed,
    ServiceError,
    UnsupportedMediaType,
    shown,
)
from common.handler import Handler, Response
from common.metrics import Counter, Family, Histogram
from common.probes import Status, health
from lookup.lookups import Lookups, names_in
from webhook.admission import (
    MAX_REVIEW,
    AdmissionResponse,
    Review,
    decide,
    defect,
    patience_in,
    review_in,
)
from webhook.certificate import Certificate

# Who asks for the names of a review; a label of the metrics.
ASKER = "webhook"


class Webhook:
    """What all reviews share: the lookups, the certificate, the metrics."""

    def __init__(self, lookups: Lookups, certificate: Certificate, status: Status) -> None:
        self.lookups = lookups
        self.certificate = certificate
        self.status = status
        self.reviews = Counter(
            "reviews_total", "Reviews answered, by what came of the Pod.", "outcome", "reason"
        )
        self.reviews.begin(("Placed", ""), ("Defect", "InternalError"))
        self.durations = Histogram("review_duration_seconds", "From a review to its answer.")

    def metrics(self) -> Iterator[Family]:
        """All families, in the order they are shown."""
        yield self.reviews
        yield self.durations
        yield from self.certificate.metrics()

    def why_unready(self) -> ServiceError | None:
        """Why it is not ready for reviews; None if it is."""
        return self.status.why_unready() or self.certificate.why_useless()


class WebhookHandler(Handler):
    """Answers reviews and probes."""

    server_version = "automatic-zone-placement"  # to whoever connects
    endpoints = ("/mutate", "/healthz", "/readyz")
    max_body = MAX_REVIEW

    def __init__(self, webhook: Webhook, head: bytes) -> None:
        super().__init__(webhook.status.requests, head)
        self.webhook = webhook

    async def do_GET(self) -> Response:
        path = self.path.partition("?")[0]
        if path == "/mutate":
            raise MethodNotAllowed(f"reviews are sent with POST, not {self.command}", "POST")
        if path in self.endpoints:
            return health(self.webhook.why_unready() if path == "/readyz" else None)
        return await super().do_GET()

    async def do_POST(self) -> Response:
        """Reviews a Pod, and allows it even if the service fails: none is to be refused for that."""
        started = perf_counter()
        patience = patience_in(self.take_query())
        review = self.read()
        try:
            response = await self.response(review, patience)
        except Exception as error:
            logging.error("reviewing %s", shown(review.pod), exc_info=error)
            response = defect(review)
        self.note(review, response, perf_counter() - started)
        return Response(200, response.body)

    def read(self) -> Review:
        """The review that is asked for; its body is not kept. Raises `ServiceError`."""
        if self.path != "/mutate":
            raise MethodNotAllowed(f"there are no reviews at {shown(self.path)}, but at /mutate")
        if self.media_type != "application/json":
            raise UnsupportedMediaType(f"{shown(self.media_type)} is not application/json")
        body, self.body = self.body, b""  # it need not be there while DNS is waited for
        return review_in(body)

    async def response(self, review: Review, patience: float) -> AdmissionResponse:
        """What comes of the review, within so many seconds if DNS is waited for."""
        if review.why_not:
            return decide(review, None)
        lookups = self.webhook.lookups
        try:
            names = names_in(review.names)
        except InvalidRequest as error:
            lookups.count(error, ASKER)
            return decide(review, error)
        return decide(review, await lookups.find(names, ASKER, patience))

    def note(self, review: Review, response: AdmissionResponse, duration: float) -> None:
        """Accounts for the review: its line in the log, its duration, its outcome."""
        self.webhook.reviews.increment(response.outcome, response.reason)
        self.webhook.durations.observe(duration)
        found = f"reason={response.reason}" if response.reason else f"zone={response.zone}"
        names = shown(review.names)
        logging.info("review %s %s %s ms=%.2f", shown(review.pod), names, found, duration * 1000)
