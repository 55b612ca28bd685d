"""What a program tells of itself: whether it lives, whether it is ready, its metrics."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from common.errors import ServiceError, ShuttingDown
from common.handler import Handler, Response, error_response
from common.metrics import CONTENT_TYPE, Counter, Family, render


class Status:
    """What is told, on each port the same; `families` are all metrics, in the order they are shown."""

    def __init__(self, families: Callable[[], Iterable[Family]]) -> None:
        self.families = families
        self.requests = Counter("requests_total", "Requests answered.", "endpoint", "status")
        self.is_stopping = False

    def why_unready(self) -> ServiceError | None:
        """Why the program is not ready for requests; None if it is."""
        return ShuttingDown("the service is shutting down") if self.is_stopping else None


class ProbesHandler(Handler):
    """Answers probes and scrapes."""

    endpoints: Collection[str] = ("/healthz", "/readyz", "/metrics")

    def __init__(self, status: Status, head: bytes) -> None:
        super().__init__(status.requests, head)
        self.status = status

    async def do_GET(self) -> Response:
        path = self.path.partition("?")[0]
        if path == "/healthz":
            return health(None)
        if path == "/readyz":
            return health(self.status.why_unready())
        if path == "/metrics":
            return Response(200, render(self.status.families()), CONTENT_TYPE)
        return await super().do_GET()


def health(error: ServiceError | None) -> Response:
    """The answer to a probe: all is well, or it is not."""
    return error_response(error) if error else Response(200, b'{"status": "ok"}')
