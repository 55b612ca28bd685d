"""A Lease of the cluster: which of several processes acts, as Kubernetes' controllers decide it.

https://kubernetes.io/docs/concepts/architecture/leases/; the rules and their times are
those of client-go's leader election. No clock is compared with another machine's: a
candidate takes over when it has seen the Lease unchanged for as long as that says.

The Lease also carries a note: what a leader leaves to the next one. Every write names the
version that it replaces, so whoever still writes the note is still the leader.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from math import inf
from threading import Event, RLock
from time import monotonic
from typing import NamedTuple
from uuid import uuid4

from common.kubernetes import Client, Json, KubernetesError, Refused

# Seconds for which a Lease that nobody renews is its holder's, for which a leader that cannot renew
# it goes on, and from one attempt to the next: client-go's. A leader gives up before another begins.
LEASE_DURATION = 15
RENEW_DEADLINE = 10.0
RETRY_PERIOD = 2.0

# Seconds for a call: reading and writing, one after the other, end within the deadline.
CALL_TIMEOUT = 4.0


class NotLeading(KubernetesError):
    """Another may be the leader by now."""


class Sighting(NamedTuple):
    """What a candidate has seen in a Lease, and since when, on its own monotonic clock."""

    spec: Json
    since: float

    def is_free(self, now: float) -> bool:
        """Whether the Lease was given back, or not renewed for as long as it says."""
        duration = self.spec.get("leaseDurationSeconds") or LEASE_DURATION
        return not self.spec.get("holderIdentity") or now - self.since >= duration


def bid(spec: Json, identity: str, is_free: bool, time: str) -> Json | None:
    """What a candidate makes of a Lease, which is empty if there is none; None if it is another's."""
    mine = {"holderIdentity": identity, "leaseDurationSeconds": LEASE_DURATION, "renewTime": time}
    if spec.get("holderIdentity") == identity:
        return spec | mine
    if not is_free:
        return None
    transitions = (spec.get("leaseTransitions") or 0) + 1 if spec else 0
    return mine | {"acquireTime": time, "leaseTransitions": transitions}


class LeaderElection:
    """A candidate for a Lease. `run` is for a thread of its own; the others may be called from any."""

    def __init__(
        self,
        api: Client,
        namespace: str,
        name: str,
        annotation: str,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """`annotation` is the Lease's that has the note."""
        self.identity = f"{socket.gethostname()}_{uuid4()}"
        self.note = ""  # as it is in the Lease
        self.term = ""  # another one whenever another may have led in between
        self._api = api.with_timeout(CALL_TIMEOUT)
        self._collection = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._metadata: Json = {"namespace": namespace, "name": name}
        self._annotation = annotation
        self._clock = clock
        self._lock = RLock()
        self._written: Json | None = None  # the Lease as we wrote it last; None: it must be read
        self._seen = Sighting({}, clock())
        self._renewed = -inf
        self._said = ""

    def run(self, stopping: Event) -> None:
        """Tries to lead, and to go on leading, until `stopping` is set."""
        while not stopping.is_set():
            try:
                holder = self.identity if self.attempt() else self._seen.spec["holderIdentity"]
                self._say(logging.INFO, f"the Lease is held by {holder}")
            except KubernetesError as error:
                self._say(logging.WARNING, f"the Lease cannot be had: {error}")
            stopping.wait(RETRY_PERIOD)

    def _say(self, level: int, what: str) -> None:
        """Logs what has become of the Lease, once and not at every attempt."""
        if what != self._said:
            logging.log(level, "%s", what)
            self._said = what

    def is_leading(self) -> bool:
        """Whether nobody else can be the leader yet."""
        return self._clock() - self._renewed < RENEW_DEADLINE

    def attempt(self) -> bool:
        """Acquires or renews the Lease; whether it is ours now. Raises `KubernetesError`."""
        with self._lock:
            now = self._clock()
            lease = self._written or self._read()
            spec = lease.get("spec") or {}
            if spec != self._seen.spec:
                self._seen = Sighting(spec, now)
            if lease and spec.get("holderIdentity") != self.identity:
                self._renewed = -inf
                self.note = self._note_in(lease)
            wanted = bid(spec, self.identity, self._seen.is_free(now), _timestamp())
            if wanted:
                self._write(lease, wanted, self.note, now)
            return wanted is not None

    def save(self, note: str) -> None:
        """Writes the note. Raises `KubernetesError` if it is not there for sure."""
        with self._lock:
            now, lease = self._clock(), self._written
            if not lease or not self.is_leading():
                raise NotLeading("the Lease may be another's by now")
            self._write(lease, lease["spec"] | {"renewTime": _timestamp()}, note, now)

    def release(self) -> None:
        """Lets another lead at once, if it is ours. Raises `KubernetesError`."""
        with self._lock:
            now, lease = self._clock(), self._written
            if lease and self.is_leading():
                free = {"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": _timestamp()}
                self._write(lease, lease["spec"] | free, self.note, now)
                self._renewed = -inf

    def _read(self) -> Json:
        """The Lease; empty if there is none."""
        try:
            return self._api.get(f"{self._collection}/{self._metadata['name']}")
        except Refused as error:
            if error.status == 404:
                return {}
            raise

    def _note_in(self, lease: Json) -> str:
        annotations = lease["metadata"].get("annotations") or {}
        return str(annotations.get(self._annotation, ""))

    def _write(self, lease: Json, spec: Json, note: str, now: float) -> None:
        metadata = lease.get("metadata") or self._metadata
        annotations = (metadata.get("annotations") or {}) | {self._annotation: note}
        body = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": metadata | {"annotations": annotations},
            "spec": spec,
        }
        self._written = None  # if this fails, nobody knows what is there now
        if lease:
            path = f"{self._collection}/{self._metadata['name']}"
            self._written = self._api.call("PUT", path, body)
        else:
            self._written = self._api.create(self._collection, body)
        self._renewed, self.term, self.note = now, spec["acquireTime"], note


def _timestamp() -> str:
    """The time as Kubernetes' MicroTime has it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
