"""Evicts a Pod, and says why in an Event."""

from __future__ import annotations

import logging
from typing import Literal

from common.errors import shown
from common.kubernetes import Client, KubernetesError, Refused
from relocation.landings import Verdict

EvictionResult = Literal["evicted", "budget", "gone", "refused"]

# HTTP statuses with which the API server, or what is in between, does not say what has become of it.
UNSURE = (502, 503, 504)


def request_eviction(api: Client, verdict: Verdict) -> None:
    """Asks for the Pod's eviction. Raises `KubernetesError`.

    https://kubernetes.io/docs/concepts/scheduling-eviction/api-eviction/
    """
    pod = verdict.pod
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": pod.name, "namespace": pod.namespace},
        # A StatefulSet's next Pod has the same name.
        "deleteOptions": {"preconditions": {"uid": pod.uid}},
    }
    api.create(f"/api/v1/namespaces/{pod.namespace}/pods/{pod.name}/eviction", eviction)


def outcome_of(refusal: Refused) -> EvictionResult | None:
    """What a refusal means; None if the Pod may have been evicted all the same."""
    if refusal.status in UNSURE or refusal.reason.endswith("Timeout"):
        return None
    if refusal.status == 429:
        return "budget"
    return "gone" if refusal.status in (404, 409) else "refused"


def record_relocation(api: Client, verdict: Verdict) -> None:
    """Writes the Event that says why the Pod went."""
    pod = verdict.pod
    about = {
        "apiVersion": "v1",
        "kind": "Pod",
        "namespace": pod.namespace,
        "name": pod.name,
        "uid": pod.uid,
    }
    note = (
        f"Evicted from zone {verdict.here}: {shown(pod.asks)} is in zone "
        f"{verdict.destination.zone} now, where its successor will be placed."
    )
    try:
        api.record_event(about, "Normal", "Relocated", "Evict", note)
    except KubernetesError as error:
        logging.warning("%s: no event could be written: %s", described(verdict), error)


def described(verdict: Verdict) -> str:
    """The Pod, as lines of the log have it."""
    pod = verdict.pod
    return (
        f"pod={pod.namespace}/{pod.name} workload={pod.workload} name={shown(pod.asks)} "
        f"in={verdict.here} database={verdict.destination.zone}"
    )
