"""Says whether an installed service places a Pod: what `helm test` runs.

    python3 verify.py

It asks the service for an address of its table, and has the API server create a Pod with that address
as its annotation, by dry run: the answer has to be in it. So the service, the engine and the rights
are all there, or it says what is not.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from http.client import HTTPException
from itertools import islice
from time import monotonic, sleep
from typing import Any
from urllib.parse import quote

from common.errors import complain
from common.kubernetes import Client, KubernetesError, exchange, optional_url, parse_url
from common.names import ANNOTATION
from common.settings import ApiServerSettings, InvalidSetting, ZoneSettings, setting, text
from lookup.table import InvalidSubnets
from lookup.table_reader import read_file

# To the service, who asks is a person: no alert is to be made of it.
AGENT = "Mozilla/5.0 (automatic-zone-placement; helm test)"

# Seconds in which the service's Pods and the engine have to be ready: a minute, after an install.
PATIENCE = 60.0
PAUSE = 1.0

# Addresses that are asked for, if the zones of the first are to be avoided.
MAX_ADDRESSES = 100

PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


class Failure(Exception):
    """Something does not work; the message is a sentence that says what."""


@dataclass(frozen=True)
class VerifySettings(ApiServerSettings, ZoneSettings):
    """The settings of this program."""

    lookup_url: str = setting(
        "http://automatic-zone-placement:8080/lookup", optional_url, "the lookup service"
    )
    subnets_file: str = setting("/subnets/subnets.json", text, "the service's table")
    kept_names: str = setting(
        "", text, "names to ask for, with spaces between; by default addresses of the table"
    )
    engine: str = setting("", text, "what asks the service; with none, no Pod is created")
    test_namespace: str = setting("default", text, "where the Pod is created")


def names(settings: VerifySettings) -> Iterator[str]:
    """What may be asked for. Raises `InvalidSubnets`."""
    if settings.kept_names:
        return iter(settings.kept_names.split())
    table = read_file(settings.subnets_file, settings.node_label)
    addresses = (subnet.cidr.partition("/")[0] for subnet in table)
    return islice(addresses, MAX_ADDRESSES)


def ask(settings: VerifySettings, name: str) -> Any:
    """The service's answer. Raises `Failure`."""
    url = parse_url(settings.lookup_url)
    target = f"{url.path}?fqdn={quote(name)}"
    try:
        reply = exchange(url, target, headers={"User-Agent": AGENT})
    except (OSError, HTTPException) as error:
        raise Failure(f"no answer from {settings.lookup_url}: {error}") from None
    if reply.status != 200:
        raise Failure(f"{settings.lookup_url}: {reply.body.decode(errors='replace').strip()}")
    return json.loads(reply.body)


def find(settings: VerifySettings, names: Iterable[str]) -> tuple[str, Any]:
    """The first name that has a place, and the answer for it. Raises `Failure`."""
    for name in names:
        answer = ask(settings, name)
        if answer["nodeLabels"]:
            return name, answer
    raise Failure("the service has node labels for no address: see AVOID_ZONES")


def created(api: Client, settings: VerifySettings, name: str) -> Any:
    """The Pod with this annotation, as the API server would create it. Raises `Failure`."""
    path = f"/api/v1/namespaces/{settings.test_namespace}/pods?dryRun=All"
    try:
        return api.create(path, pod(name))
    except KubernetesError as error:
        raise Failure(f"the API server creates no Pod: {error}") from None


def pod(name: str) -> dict[str, Any]:
    """A Pod that every namespace admits."""
    container = {
        "name": "none",
        "image": "none",
        "resources": {"limits": {"cpu": "1m", "memory": "1Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "automatic-zone-placement-test",
            "annotations": {ANNOTATION: name},
        },
        "spec": {
            "automountServiceAccountToken": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
        },
    }


def is_placed(pod: Any, answer: Any) -> bool:
    """Whether the Pod prefers what the answer says."""
    affinity = pod["spec"].get("affinity", {}).get("nodeAffinity", {})
    preferences = [
        {"key": each["key"], "values": each["values"], "weight": term["weight"]}
        for term in affinity.get(PREFERRED, [])
        for each in term["preference"].get("matchExpressions", [])
    ]
    return all(label in preferences for label in answer["nodeLabels"])


def verify(api: Client, settings: VerifySettings) -> str:
    """What works, as a sentence. Raises `Failure` or `InvalidSubnets`."""
    name, answer = find(settings, names(settings))
    zone = answer["zone"] or "several zones"
    if settings.engine == "none":
        return f"the service answers: {name} is in {zone}; nothing else was asked for"
    if not is_placed(created(api, settings, name), answer):
        raise Failure(
            f"the service answers, but a Pod for {name} is created without {zone}: "
            f"look at the engine, {settings.engine}"
        )
    return f"a Pod for {name} is created with {zone}, by {settings.engine}"


def main() -> int:
    """Prints what works; the exit status is 1 if something does not after a minute, and 2 if it cannot be tried."""
    try:
        settings = VerifySettings.from_environment(os.environ)
        api = Client.from_environment(os.environ)
    except (InvalidSetting, ValueError) as error:
        return complain(str(error), status=2)
    deadline = monotonic() + PATIENCE
    while True:
        try:
            print(verify(api, settings))
            return 0
        except Failure as failure:
            if monotonic() > deadline:
                return complain(str(failure), status=1)
        except InvalidSubnets as error:
            return complain(*error.problems, status=2)
        sleep(PAUSE)


if __name__ == "__main__":
    sys.exit(main())
