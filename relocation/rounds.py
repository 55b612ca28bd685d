"""A round: look, decide, evict; and one after the other."""

from __future__ import annotations

import logging
from collections import Counter as Tally
from collections.abc import Mapping
from functools import partial
from threading import Event
from time import time
from typing import Any, get_args
from urllib.parse import quote

from common.errors import shown
from common.kubernetes import Client, KubernetesError, Refused, parse_url
from common.metrics import Counter
from relocation.decision import Plan, make_plan
from relocation.landings import Landed, Verdict, landings
from relocation.lookup_client import LookupFailure, ask_all
from relocation.memory import Memory
from relocation.metrics import RelocationMetrics
from relocation.settings import RelocationSettings
from relocation.world import ZONE, Claim, Node, Pod, Volume, Workload, World, is_rolled_out

# Seconds to wait after a round that failed; doubled with each further one, up to the interval.
FIRST_PAUSE = 1.0


# Pods that have ended are nowhere.
RUNNING = "status.phase!=Succeeded,status.phase!=Failed"


def look(api: Client, settings: RelocationSettings, asks: str = "", **query: str) -> World:
    """What there is now, with the Pods of the query, as if all had the annotation `asks`."""
    nodes = {node.name: node for node in api.collect("/api/v1/nodes", Node.from_json)}
    namespace = query.pop("namespace", "")
    path = f"/api/v1/namespaces/{quote(namespace)}/pods" if namespace else "/api/v1/pods"
    pods = api.collect(path, partial(Pod.from_json, asks=asks), fieldSelector=RUNNING, **query)
    world = World(pods, nodes, ask_all(parse_url(settings.lookup_url), (pod.asks for pod in pods)))
    wanted = {
        Claim(verdict.pod.namespace, name)
        for verdict in landings(world, settings.rules())
        if verdict.landed == "elsewhere"
        for name in verdict.pod.constraints.claims
    }
    return world._replace(volumes=volumes(api, wanted)) if wanted else world


def volumes(api: Client, wanted: set[Claim]) -> dict[Claim, Volume]:
    """The volumes that these claims have."""

    def keep(item: Mapping[str, Any]) -> Volume | None:
        volume = Volume.from_json(item)
        return volume if volume and volume.claim in wanted else None

    return {each.claim: each for each in api.collect("/api/v1/persistentvolumes", keep)}


def has_all_pods(api: Client, workload: Workload) -> bool:
    """Whether all Pods of the workload are there and available; not if it is gone."""
    kinds = f"{workload.kind.lower()}s"
    path = f"/apis/apps/v1/namespaces/{workload.namespace}/{kinds}/{workload.name}"
    try:
        return is_rolled_out(api.get(path))
    except Refused as error:
        if error.status == 404:
            return False
        raise


class Relocator:
    """Looks round after round, and evicts whom the decision names."""

    def __init__(
        self, api: Client, settings: RelocationSettings, lines_dropped: Counter | None = None
    ) -> None:
        self.api = api
        self.settings = settings
        self.metrics = RelocationMetrics(lines_dropped)
        self.stopping = Event()
        self.memory = Memory()
        self.summary = ""  # as it was last logged
        self.refused: dict[Workload, str] = {}

    def run(self) -> None:
        """Runs until `stopping` is set."""
        pause = 0.0
        failures = 0
        while not self.stopping.wait(pause):
            if self.try_round():
                failures, pause = 0, self.settings.relocate_interval
            else:
                pause = min(FIRST_PAUSE * 2 ** min(failures, 30), self.settings.relocate_interval)
                failures += 1

    def try_round(self) -> bool:
        """One round; whether it succeeded."""
        try:
            self.round()
        except (KubernetesError, LookupFailure) as error:
            logging.error("this round failed: %s", error)
        except Exception:  # it must not end all that comes after it
            logging.exception("this round failed: a defect")
        else:
            self.metrics.rounds.increment("success")
            self.metrics.last_success = time()
            return True
        self.metrics.rounds.increment("failure")
        return False

    def round(self) -> None:
        """Looks, decides and acts. Raises `KubernetesError` or `LookupFailure`."""
        world = look(self.api, self.settings, labelSelector=ZONE)
        now = time()
        plan = make_plan(world, self.memory, self.settings.rules(), now)
        self.memory = plan.memory
        self.show(plan, now)
        evictions = plan.evictions()
        present = {verdict.pod.workload for verdict in evictions}
        self.refused = {each: why for each, why in self.refused.items() if each in present}
        for verdict in evictions:
            is_full = self.memory.moving() >= self.settings.relocate_max_concurrent
            if is_full or self.stopping.is_set():
                break
            workload = verdict.pod.workload
            if has_all_pods(self.api, workload) and self.evict(verdict):
                plan = plan.after_eviction(workload, now)
                self.memory = plan.memory
                self.metrics.moving = self.memory.moving()

    def show(self, plan: Plan, now: float) -> None:
        """Sets the metrics, and logs what has changed since the last round."""
        counts = Tally(verdict.landed for verdict in plan.verdicts)
        for landed in get_args(Landed):
            self.metrics.pods.set(counts[landed], landed)
        self.metrics.moving = plan.memory.moving()
        self.metrics.backed_off = plan.memory.backed_off(now)
        line = (
            f"{counts['in_zone']} Pods in their zone, {counts['elsewhere']} elsewhere, "
            f"{counts['unknown']} unknown; {self.metrics.moving} workloads on the move, "
            f"{self.metrics.backed_off} left alone for now"
        )
        if line != self.summary:
            logging.info("%s", line)
            self.summary = line
        for verdict in plan.verdicts:
            if verdict.landed != "in_zone":
                logging.debug("%s: %s", _described(verdict), verdict.obstacle or "may be evicted")

    def evict(self, verdict: Verdict) -> bool:
        """Asks for the Pod's eviction; whether it was granted.

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
        path = f"/api/v1/namespaces/{pod.namespace}/pods/{pod.name}/eviction"
        try:
            self.api.create(path, eviction)
        except Refused as error:
            outcome = {404: "gone", 409: "gone", 429: "budget"}.get(error.status, "refused")
            self.metrics.evictions.increment(outcome)
            if self.refused.get(pod.workload) != outcome:  # once, not in each round
                logging.warning("%s: not evicted for now: %s", _described(verdict), error)
                self.refused[pod.workload] = outcome
            return False
        self.metrics.evictions.increment("evicted")
        logging.info("%s: evicted", _described(verdict))
        self.record_event(verdict)
        return True

    def record_event(self, verdict: Verdict) -> None:
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
            f"{verdict.location.zone} now, where its successor will be placed."
        )
        try:
            self.api.record_event(about, "Normal", "Relocated", "Evict", note)
        except KubernetesError as error:
            logging.warning("%s: no event could be written: %s", _described(verdict), error)


def _described(verdict: Verdict) -> str:
    pod = verdict.pod
    return (
        f"pod={pod.namespace}/{pod.name} workload={pod.workload} name={shown(pod.asks)} "
        f"in={verdict.here} database={verdict.location.zone}"
    )
