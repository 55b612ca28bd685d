"""What there is: asks the API server and the lookup service."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any
from urllib.parse import quote

from common.kubernetes import Client, Refused, parse_url
from relocation.landings import landings
from relocation.lookup_client import ask_all
from relocation.settings import RelocationSettings
from relocation.world import Claim, Node, Pod, Volume, Workload, World, is_rolled_out

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
    return world._replace(volumes=find_volumes(api, wanted)) if wanted else world


def find_volumes(api: Client, wanted: set[Claim]) -> dict[Claim, Volume]:
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
