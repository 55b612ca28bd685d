"""A small client for the Kubernetes API: JSON, deadlines and bounds, nothing but Python's library.

https://kubernetes.io/docs/reference/using-api/api-concepts/. Every call has a
connection of its own: there are few of them, and what is not kept cannot break.
"""

from __future__ import annotations

import io
import json
import os
import socket
import ssl
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from datetime import datetime
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple, TypeVar, cast
from urllib.parse import SplitResult, urlencode, urlsplit

# https://kubernetes.io/docs/tasks/run-application/access-api-from-pod/
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")

# Seconds for a call. A page of Pods from a busy API server takes a fraction of one.
TIMEOUT = 15.0

# Objects in a page of a list: at some ten kilobytes for a Pod, a few megabytes.
PAGE = 250

# Against a list without an end: 250,000 objects, more than Kubernetes is made for.
MAX_PAGES = 1000

# Bytes in an answer. An object has 1.5 MiB at most, and a page of Pods never comes near this.
MAX_RESPONSE = 32 << 20

# How often a list that has expired (410) is begun anew, and a change that came too late (409).
ATTEMPTS = 5

# Bytes of an Event's note.
MAX_NOTE = 1024

T = TypeVar("T")
Json = dict[str, Any]


class KubernetesError(Exception):
    """The API server did not do what it was asked."""


class Unreachable(KubernetesError):
    """It gave no answer, or none that can be understood. What was asked may have been done."""


class Refused(KubernetesError):
    """It answered with an error; `reason` is its CamelCase word for it, which may be missing."""

    def __init__(self, message: str, status: int, reason: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


class Reply(NamedTuple):
    """An HTTP response."""

    status: int
    body: bytes


def parse_url(text: str) -> SplitResult:
    """An absolute URL of HTTP or HTTPS, without a query. Raises `ValueError`."""
    with suppress(ValueError):
        url = urlsplit(text)
        host = (url.hostname or "").encode("idna")  # as a socket does it
        is_bare = not url.query and not url.fragment and url.username is None
        if url.scheme in ("http", "https") and host and url.port != 0 and is_bare:
            return url
    raise ValueError("a URL such as http://localhost:8001")


def own_namespace() -> str:
    """The namespace of the Pod in which this runs; empty if it is none."""
    try:
        return (SERVICE_ACCOUNT / "namespace").read_text().strip()
    except OSError:
        return ""


def optional_url(value: str) -> str:
    """A setting that is a URL, or empty. Raises `ValueError`."""
    return parse_url(value).geturl() if value else ""


def exchange(
    url: SplitResult,
    target: str,
    method: str = "GET",
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    context: ssl.SSLContext | None = None,
    timeout: float = TIMEOUT,
) -> Reply:
    """The response to one request, complete.

    Raises `OSError` or `HTTPException`, also for one that is too long, that is not
    complete after `timeout` seconds, or whose connection is not there as soon.
    """
    assert url.hostname
    connection = (
        HTTPSConnection(url.hostname, url.port, timeout=timeout, context=context)
        if url.scheme == "https"
        else HTTPConnection(url.hostname, url.port, timeout=timeout)
    )
    with closing(connection):
        deadline = monotonic() + timeout
        connection.request(method, target, body, dict(headers or {}))
        with HTTPResponse(
            cast(Any, _Deadline(connection.sock, deadline)), method=method
        ) as response:
            response.begin()
            content = response.read(MAX_RESPONSE + 1)
            missing = response.length  # about which `read` says nothing if it has a limit
        if len(content) > MAX_RESPONSE:
            raise HTTPException(f"the answer has more than {MAX_RESPONSE} bytes")
        if missing:
            raise HTTPException("the connection was lost in the middle of the answer")
        return Reply(response.status, content)


class _Deadline:
    """A socket's reading half that ends at a moment on the monotonic clock.

    A socket's own timeout begins anew with every byte.
    """

    def __init__(self, sock: Any, deadline: float) -> None:
        self.sock = sock
        self.deadline = deadline

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_DeadlineReader(self.sock, self.deadline))


class _DeadlineReader(io.RawIOBase):
    def __init__(self, sock: Any, deadline: float) -> None:
        self.sock = sock
        self.deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        remaining = self.deadline - monotonic()
        if remaining <= 0:
            raise TimeoutError("timed out")
        self.sock.settimeout(remaining)
        return cast(int, self.sock.recv_into(buffer))


class Client:
    """Speaks to one API server, as a Pod's service account or through `kubectl proxy`."""

    def __init__(
        self,
        url: SplitResult,
        account: Path | None = None,
        agent: str = "",
        timeout: float = TIMEOUT,
    ) -> None:
        """`timeout` is for each call."""
        self.url = url
        self.account = account
        self.agent = agent or "automatic-zone-placement"
        self.timeout = timeout

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], agent: str = "") -> Client:
        """The client for `KUBERNETES_URL`, or else for the cluster in which this is a Pod.

        Raises `ValueError`.
        """
        if url := environment.get("KUBERNETES_URL"):
            return cls(parse_url(url), agent=agent)
        host = environment.get("KUBERNETES_SERVICE_HOST")
        if not host:
            raise ValueError("this is not a Pod of a cluster, and KUBERNETES_URL is not set")
        host = f"[{host}]" if ":" in host else host
        port = environment.get("KUBERNETES_SERVICE_PORT", "443")
        return cls(parse_url(f"https://{host}:{port}"), SERVICE_ACCOUNT, agent)

    def with_timeout(self, timeout: float) -> Client:
        """The same with another time for each call."""
        return Client(self.url, self.account, self.agent, timeout)

    def get(self, path: str, **query: str | int) -> Json:
        """The object at `path`. Raises `KubernetesError`, as all methods do."""
        return self.call("GET", f"{path}?{urlencode(query)}" if query else path)

    def create(self, path: str, body: Json) -> Json:
        """Creates `body` in the collection, or the subresource, at `path`."""
        return self.call("POST", path, body)

    def record_event(self, about: Json, kind: str, reason: str, action: str, note: str) -> None:
        """Writes an Event about an object, of which only the reference is needed.

        `kind` is Normal or Warning. https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/event-v1/
        """
        namespace = about["namespace"]
        event = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"generateName": "event-", "namespace": namespace},
            "eventTime": datetime.now().astimezone().isoformat(timespec="microseconds"),
            "reportingController": self.agent,
            "reportingInstance": socket.gethostname()[:128],
            "type": kind,
            "reason": reason,
            "action": action,
            "regarding": about,
            "note": note.encode()[:MAX_NOTE].decode(errors="ignore"),
        }
        self.create(f"/apis/events.k8s.io/v1/namespaces/{namespace}/events", event)

    def update(self, path: str, change: Callable[[Json], Json | None]) -> bool:
        """Replaces the object at `path` by what `change` makes of it, unless that is None.

        If somebody else has changed it meanwhile, `change` is asked again with that.
        Returns whether anything was replaced.
        """
        attempts = ATTEMPTS
        while (changed := change(self.get(path))) is not None:
            try:
                self.call("PUT", path, changed)
                return True
            except Refused as error:
                attempts -= 1
                if error.status != 409 or not attempts:
                    raise
        return False

    def collect(self, path: str, keep: Callable[[Json], T | None], **query: str) -> list[T]:
        """What `keep` makes of each object in the collection at `path`, without the Nones.

        The list is read in pages, and begun anew if it expires between two of them.
        """
        attempts = ATTEMPTS
        while True:
            try:
                return self._pages(path, keep, query)
            except Refused as error:
                attempts -= 1
                if error.status != 410 or not attempts:
                    raise

    def _pages(
        self, path: str, keep: Callable[[Json], T | None], query: Mapping[str, str]
    ) -> list[T]:
        found: list[T] = []
        token: dict[str, str] = {}
        for _ in range(MAX_PAGES):
            page = self.get(path, limit=PAGE, **query, **token)
            kept = map(keep, page.get("items") or ())
            found += [each for each in kept if each is not None]
            following = page.get("metadata", {}).get("continue")
            if not following:
                return found
            token = {"continue": following}
        raise Unreachable(f"{path}: the list has more than {MAX_PAGES} pages")

    def call(self, method: str, target: str, body: Json | None = None) -> Json:
        """The object with which the API server answers."""
        reply = self._exchange(method, target, body)
        if reply.status == 401 and self.account:  # the token may have been renewed in between
            reply = self._exchange(method, target, body)
        try:
            answer = json.loads(reply.body)
        except (ValueError, RecursionError):
            answer = None
        where = f"{method} {target.partition('?')[0]}"
        if reply.status >= 300:
            status = answer if isinstance(answer, dict) else {}
            message = status.get("message") or f"HTTP status {reply.status}"
            raise Refused(f"{where}: {message}", reply.status, str(status.get("reason") or ""))
        if not isinstance(answer, dict):
            raise Unreachable(f"{where}: the answer is not a JSON object")
        return answer

    def _exchange(self, method: str, target: str, body: Json | None) -> Reply:
        try:
            return exchange(
                self.url,
                self.url.path.rstrip("/") + target,
                method,
                None if body is None else json.dumps(body).encode(),
                self._headers(body is not None),
                self._context(),
                self.timeout,
            )
        except (OSError, HTTPException) as error:
            where = f"{method} {target.partition('?')[0]}"
            raise Unreachable(f"{where}: {error or type(error).__name__}") from None

    def _headers(self, has_body: bool) -> dict[str, str]:
        """The token is read anew for every call: the kubelet renews it every hour or so."""
        headers = {"Accept": "application/json", "User-Agent": self.agent}
        if has_body:
            headers["Content-Type"] = "application/json"
        if self.account:
            token = (self.account / "token").read_text().strip()
            headers["Authorization"] = f"Bearer {token}"
        return headers

    def _context(self) -> ssl.SSLContext | None:
        if not self.account:
            return None
        context = ssl.create_default_context(cafile=os.fspath(self.account / "ca.crt"))
        # By default since Python 3.13, but the certificates of many clusters, EKS among them,
        # have no key identifiers, which RFC 5280 asks for. All else is verified as ever.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        return context
