"""Relocation as a program: against a stand-in for the API server and the lookup service."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import unittest
from collections.abc import Coroutine, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, suppress
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any, get_args
from unittest import mock

from common.kubernetes import Client, parse_url
from common.listening import listen
from common.metrics import render
from common.settings import InvalidSetting
from lookup.settings import LookupSettings
from relocation.__main__ import candidate, options_of
from relocation.eviction import EvictionResult
from relocation.history import History, Seen
from relocation.landings import Wait
from relocation.lookup_client import LOOKUP_TIMEOUT, LOOKUPS, LookupFailure, ask_all
from relocation.metrics import RelocationMetrics
from relocation.program import MAX_CONNECTIONS, Program
from relocation.report import COLUMNS, report
from relocation.rounds import Relocator
from relocation.settings import HISTORY_ANNOTATION, LEASE, RelocationSettings
from tests.api_server import (
    ApiServer,
    Fault,
    Reply,
    Request,
    api_server,
    break_off,
    break_off_halfway,
    refusal,
)
from tests.support import DEADLINE, ROOT, Remote, wait_until
from tests.test_relocation_decision import (
    NAME,
    NOT_READY,
    ZONE,
    A,
    answer,
    merged,
    node,
    owner,
    pod,
    volume,
)

PROGRAM = ["-m", "relocation"]
COMPONENT = ROOT / "deploy" / "components" / "relocation"

NODES = "/api/v1/nodes"
PODS = "/api/v1/pods"
VOLUMES = "/api/v1/persistentvolumes"
WEB = "/apis/apps/v1/namespaces/shop/deployments/web"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/placement/leases"
EVENTS = "/apis/events.k8s.io/v1/namespaces/shop/events"

Json = dict[str, Any]

SECONDS = ["-1", "86400.1", "nan", "inf", "1s", "five"]

BAD_SETTINGS = {
    "KUBERNETES_URL": ["localhost", "http://a:b", "http://" + 64 * "a"],
    "NAMESPACE": [],
    "LOOKUP_URL": ["localhost:8080", "ftp://x", "http://x?y"],
    "NODE_LABEL": ["zone"],
    "RELOCATE_INTERVAL": [*SECONDS, "0"],
    "RELOCATE_AFTER": SECONDS,
    "RELOCATE_BACKOFF": [*SECONDS, "0"],
    "RELOCATE_MAX_CONCURRENT": ["-1", "101", "1.5", "many"],
    "HOST": ["192.0.2.1"],
    "PORT": ["65536", "http"],
    "LOG_LEVEL": ["verbose"],
}

GOOD_SETTINGS: list[tuple[str, str, object]] = [
    ("RELOCATE_INTERVAL", "0.1", 0.1),
    ("RELOCATE_AFTER", "0", 0),
    ("RELOCATE_MAX_CONCURRENT", "100", 100),
    ("RELOCATE_MAX_CONCURRENT", "0", 0),
    ("NODE_LABEL", "topology.k8s.aws/zone-id", "topology.k8s.aws/zone-id"),
    ("LOG_LEVEL", "debug", "DEBUG"),
    ("LOOKUP_URL", "https://x/lookup", "https://x/lookup"),
    ("LOOKUP_URL", "", "http://automatic-zone-placement:8080/lookup"),
    ("KUBERNETES_URL", "", ""),
]

# variables, and the setting that was meant; those of every Pod are none
MISSPELT = [
    ("RELOCATE_AFTR", "RELOCATE_AFTER"),
    ("RELOCATE_INTERVALL", "RELOCATE_INTERVAL"),
    ("RELOCATE_MAX_CONCURENT", "RELOCATE_MAX_CONCURRENT"),
    ("LOOKUP_URI", "LOOKUP_URL"),
    ("LOGLEVEL", "LOG_LEVEL"),
    ("NODE_LABELS", "NODE_LABEL"),
    ("HOSTNAME", None),
    ("KUBERNETES_PORT", None),
    ("KUBERNETES_SERVICE_HOST", None),
    ("KUBERNETES_SERVICE_PORT", None),
    ("KUBERNETES_SERVICE_PORT_HTTPS", None),
    ("AUTOMATIC_ZONE_PLACEMENT_PORT", None),
    ("PATH", None),
]

# arguments that are refused, and what the complaint names
BAD_ARGUMENTS = [
    (["--evict"], "--evict"),
    (["--rep"], "--rep"),
    (["report"], "report"),
    (["--name", "db.test"], "--report"),
    (["-l", "app=web"], "--report"),
    (["-n", "shop"], "--report"),
    (["--report", "--name", "a b"], "'a b'"),
    (["--report", "--name", "x&y=z"], "'x&y=z'"),
]


def lookup(zone: str = "zone-b", **more: Any) -> Reply:
    """The lookup service's answer for a name in that zone."""
    body = {
        "zone": zone,
        "nodeLabels": [{"key": ZONE, "values": [zone], "weight": 100}],
        "nodeSelector": {ZONE: zone},
    }
    return Reply(200, body | more)


def deployment(replicas: int, **changes: Any) -> Json:
    counts = ("replicas", "availableReplicas", "updatedReplicas")
    whole: Json = {
        "kind": "Deployment",
        "metadata": {"generation": 1},
        "spec": {"replicas": replicas},
        "status": {"observedGeneration": 1} | dict.fromkeys(counts, replicas),
    }
    result: Json = merged(whole, changes)
    return result


class Cluster:
    """A stand-in's cluster: Pods of the Deployment `web` in zone-a, their database in zone-b."""

    def __init__(self, server: ApiServer, *pods: Json) -> None:
        self.server = server
        self.leader = candidate(Client(parse_url(server.url)), self.settings())
        server.lists = {
            NODES: [node("a1"), node("b1"), node("c1")],
            PODS: list(pods or (pod("web-0"), pod("web-1"))),
            VOLUMES: [],
        }
        server.objects = {WEB: deployment(2)}
        server.answers = {NAME: lookup()}

    @property
    def pods(self) -> list[Json]:
        return self.server.lists[PODS]

    def evictions(self) -> list[str]:
        """The names of the Pods that were evicted."""
        return [
            body["metadata"]["name"]
            for path, body in self.server.created
            if path.endswith("/eviction")
        ]

    def events(self) -> list[Json]:
        return [body for path, body in self.server.created if path == EVENTS]

    def settings(self, **environment: str) -> RelocationSettings:
        return RelocationSettings.from_environment(self.environment(**environment))

    def environment(self, **more: str) -> dict[str, str]:
        return {
            "KUBERNETES_URL": self.server.url,
            "LOOKUP_URL": f"{self.server.url}/lookup",
            "NAMESPACE": "placement",
            "RELOCATE_AFTER": "0",
        } | more

    def relocator(self, **environment: str) -> Relocator:
        """One that leads: whoever did before has given the Lease back."""
        api = Client(parse_url(self.server.url))
        self.leader.release()
        settings = self.settings(**environment)
        self.leader = candidate(api, settings)
        self.leader.attempt()
        return Relocator(api, settings, self.leader)

    @property
    def lease(self) -> Json:
        """The Lease as it is."""
        return self.server.objects[f"{LEASES}/{LEASE}"]

    def asked(self, method: str = "GET") -> list[Request]:
        """The requests, but for those for the Lease."""
        return [each for each in self.server.asked(method) if "/leases" not in each.path]


def replace(pods: list[Json], name: str, successor: str, where: str) -> None:
    """A Pod is gone, and another has come."""
    pods[:] = [each for each in pods if each["metadata"]["name"] != name]
    created = f"2026-01-02T00:00:{len(successor + where) + int(successor[-1]):02}Z"
    pods.append(pod(successor, where, "zone-b", metadata={"creationTimestamp": created}))


class RoundTest(unittest.TestCase):
    def setUp(self) -> None:
        self.cluster = Cluster(self.enterContext(api_server()))
        self.server = self.cluster.server
        self.relocator = self.cluster.relocator()
        self.metrics = self.relocator.metrics

    def outcomes(self) -> dict[str, float]:
        return {key: value for (key,), value in self.metrics.evictions.values.items() if value}

    def test_one_pod_at_a_time(self) -> None:
        with self.assertLogs(level="INFO"):
            for _ in range(3):
                self.relocator.round()
            self.assertEqual(self.cluster.evictions(), ["web-0"])
            replace(self.cluster.pods, "web-0", "web-2", "b1")
            self.relocator.round()
            self.assertEqual(self.cluster.evictions(), ["web-0", "web-1"])
            replace(self.cluster.pods, "web-1", "web-3", "b1")
            for _ in range(3):
                self.relocator.round()
        self.assertEqual(self.cluster.evictions(), ["web-0", "web-1"])
        self.assertEqual(self.outcomes(), {"evicted": 2})

    def test_what_is_asked(self) -> None:
        self.relocator.round()
        lists = [(each.path, each.query) for each in self.server.asked() if each.path == PODS]
        ((_, query),) = lists
        self.assertEqual(query["labelSelector"], f"{A}/zone")
        self.assertEqual(query["fieldSelector"], "status.phase!=Succeeded,status.phase!=Failed")
        self.assertEqual(len(self.server.asked("GET", "/lookup")), 1)
        self.assertEqual(self.server.asked("GET", VOLUMES), [])

    def test_the_eviction(self) -> None:
        self.relocator.round()
        (post, _) = self.cluster.asked("POST")
        self.assertEqual(post.path, "/api/v1/namespaces/shop/pods/web-0/eviction")
        self.assertEqual(
            post.body,
            {
                "apiVersion": "policy/v1",
                "kind": "Eviction",
                "metadata": {"namespace": "shop", "name": "web-0"},
                "deleteOptions": {"preconditions": {"uid": "uid-web-0"}},
            },
        )

    def test_the_event(self) -> None:
        self.relocator.round()
        (event,) = self.cluster.events()
        self.assertEqual((event["reason"], event["type"]), ("Relocated", "Normal"))
        self.assertEqual(event["regarding"]["uid"], "uid-web-0")
        self.assertRegex(event["note"], r"zone zone-a: 'db\.example\.internal' is in zone zone-b")
        self.assertRegex(
            event["eventTime"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}[+-]\d\d:\d\d$"
        )

    def test_the_note_of_an_event_has_1024_bytes_at_most(self) -> None:
        name = ",".join("a" * 60 + f".{n}.example" for n in range(20))
        self.server.answers[name] = lookup()
        self.cluster.pods[0] = pod("web-0", metadata={"annotations": {A: name}})
        self.relocator.round()
        (event,) = self.cluster.events()
        self.assertLess(len(event["note"]), 1024)

    def test_an_event_that_cannot_be_written(self) -> None:
        self.server.faults[f"POST {EVENTS}"] = [refusal(403, "Forbidden", "events is forbidden")]
        with self.assertLogs(level="WARNING") as log:
            self.assertTrue(self.relocator.try_round())
        self.assertIn("events is forbidden", log.output[0])
        self.assertEqual(self.outcomes(), {"evicted": 1})

    def test_evictions_that_are_refused(self) -> None:
        """Asked for again in the next round, and said once."""
        eviction = "POST /api/v1/namespaces/shop/pods/web-0/eviction"
        for status, outcome in ((429, "budget"), (404, "gone"), (409, "gone"), (500, "refused")):
            relocator = self.cluster.relocator()
            self.server.faults[eviction] = [refusal(status, message="says why")] * 3
            with self.subTest(status), self.assertLogs(level="WARNING") as log:
                for _ in range(3):
                    self.assertTrue(relocator.try_round())
            self.assertEqual(len(log.output), 1)
            self.assertIn("says why", log.output[0])
            self.assertEqual(relocator.metrics.evictions.values[outcome,], 3)
            self.assertEqual((relocator.history.moves, self.cluster.evictions()), ({}, []))

    def test_another_refusal_is_said_too(self) -> None:
        eviction = "POST /api/v1/namespaces/shop/pods/web-0/eviction"
        self.server.faults[eviction] = [refusal(429), refusal(500), refusal(500), refusal(429)]
        with self.assertLogs(level="WARNING") as log:
            for _ in range(4):
                self.relocator.round()
        self.assertEqual(len(log.output), 3)

    def test_a_budget_of_one_workload_does_not_keep_another(self) -> None:
        self.cluster.pods.append(
            pod("db-0", metadata={"ownerReferences": owner("StatefulSet", "db")})
        )
        statefulset = "/apis/apps/v1/namespaces/shop/statefulsets/db"
        self.server.objects[statefulset] = deployment(1, kind="StatefulSet")
        self.server.faults["POST /api/v1/namespaces/shop/pods/web-0/eviction"] = [refusal(429)]
        relocator = self.cluster.relocator(RELOCATE_MAX_CONCURRENT="1")
        with self.assertLogs(level="WARNING"):
            relocator.round()
        self.assertEqual(self.cluster.evictions(), ["db-0"])

    def test_none_at_once(self) -> None:
        self.cluster.relocator(RELOCATE_MAX_CONCURRENT="0").round()
        self.assertEqual(self.cluster.evictions(), [])

    def test_no_more_workloads_at_once_than_may_be(self) -> None:
        for n in range(6):
            owned = {"ownerReferences": owner("StatefulSet", f"db{n}")}
            self.cluster.pods.append(pod(f"db{n}-0", metadata=owned))
            path = f"/apis/apps/v1/namespaces/shop/statefulsets/db{n}"
            self.server.objects[path] = deployment(1, kind="StatefulSet")
        relocator = self.cluster.relocator(RELOCATE_MAX_CONCURRENT="2")
        for _ in range(3):
            relocator.round()
        self.assertEqual(self.cluster.evictions(), ["web-0", "db0-0"])
        self.assertEqual(relocator.metrics.moving, 2)
        replace(self.cluster.pods, "web-0", "web-2", "b1")
        relocator.round()
        self.assertEqual(self.cluster.evictions(), ["web-0", "db0-0", "web-1"])

    def test_a_workload_that_is_not_whole(self) -> None:
        for what in (
            deployment(2, status={"availableReplicas": 1}),
            deployment(2, status={"updatedReplicas": 0}),
            None,
        ):
            del self.server.objects[WEB]
            self.server.objects |= {WEB: what} if what else {}
            with self.subTest(what):
                self.assertTrue(self.relocator.try_round())
                self.assertEqual(self.cluster.evictions(), [])

    def test_a_connection_lost_in_the_middle_of_an_eviction(self) -> None:
        eviction = "POST /api/v1/namespaces/shop/pods/web-0/eviction"
        self.server.faults[eviction] = [break_off_halfway]
        with self.assertLogs(level="ERROR"):
            self.assertFalse(self.relocator.try_round())

    def test_volumes_are_read_if_somebody_has_claims(self) -> None:
        claim = {"name": "data", "persistentVolumeClaim": {"claimName": "data-web-1"}}
        self.cluster.pods[:] = [pod("web-1", spec={"volumes": [claim]})]
        for zones, expected in ((["zone-a"], []), (["zone-b"], ["web-1"])):
            self.server.lists[VOLUMES] = [volume(None), volume("other"), volume(zones=zones)]
            self.relocator.round()
            self.assertEqual(self.cluster.evictions(), expected)

    def test_the_pods_are_counted(self) -> None:
        self.cluster.pods.extend([pod("x", "b1"), pod("y", "gone"), pod("z", "c1")])
        self.relocator.round()
        counts = {landed: count for (landed,), count in self.metrics.pods.values.items()}
        self.assertEqual(counts, {"in_zone": 1, "elsewhere": 3, "unknown": 1})

    def test_who_is_backed_off(self) -> None:
        self.relocator.round()
        replace(self.cluster.pods, "web-0", "web-2", "c1")
        self.relocator.round()
        self.assertEqual((self.metrics.moving, self.metrics.backed_off), (0, 1))

    def test_who_is_elsewhere_is_said_at_debug_level(self) -> None:
        self.cluster.pods.append(pod("web-2", "b1"))
        with self.assertLogs(level="DEBUG") as log:
            self.relocator.round()
        said = [line for line in log.output if line.startswith("DEBUG")]
        self.assertEqual(len(said), 2)
        self.assertIn("pod=shop/web-0 workload=Deployment/web", said[0])
        self.assertIn("may be evicted", said[0])
        self.assertIn("another Pod of its workload goes first", said[1])

    def test_nothing_is_logged_when_nothing_happens(self) -> None:
        self.cluster.pods[:] = [pod("web-0", "b1")]
        with self.assertLogs(level="INFO") as log:
            self.relocator.round()
            self.relocator.round()
        (line,) = log.output
        self.assertIn("1 Pods in their zone, 0 elsewhere, 0 unknown", line)


class FaultTest(unittest.TestCase):
    """Whatever fails: nobody is evicted, and it goes on."""

    def setUp(self) -> None:
        self.cluster = Cluster(self.enterContext(api_server()))
        self.server = self.cluster.server
        self.relocator = self.cluster.relocator()

    def test_a_round_that_fails(self) -> None:
        for path in (NODES, PODS, WEB):
            for fault in (refusal(500), refusal(401), refusal(429), break_off, Reply(200, b"?")):
                self.server.faults = {f"GET {path}": [fault]}
                with self.subTest(path, fault=fault), self.assertLogs(level="ERROR"):
                    self.assertFalse(self.relocator.try_round())
        self.assertEqual(self.cluster.evictions(), [])
        self.assertEqual(self.relocator.metrics.last_success, 0)
        self.assertEqual(self.relocator.metrics.rounds.values["failure",], 15)
        self.assertTrue(self.relocator.try_round())
        self.assertGreater(self.relocator.metrics.last_success, 0)

    def test_a_list_that_expires_meanwhile(self) -> None:
        first = Reply(200, {"items": [pod("old")], "metadata": {"continue": "1"}})
        self.server.faults[f"GET {PODS}"] = [first, refusal(410, "Expired")]
        self.relocator.round()
        self.assertEqual(self.cluster.evictions(), ["web-0"])

    def test_a_defect(self) -> None:
        self.cluster.pods[0] = {"metadata": {}}
        with self.assertLogs(level="ERROR") as log:
            self.assertFalse(self.relocator.try_round())
        self.assertIn("a defect", log.output[0])

    def test_answers_that_are_none(self) -> None:
        answers: list[Reply | Fault] = [
            refusal(504, "ResolverTimeout"),
            refusal(404, "NameNotFound"),
            Reply(500, b"oops"),
            Reply(200, b"oops"),
            Reply(200, {"zone": "zone-b"}),
            Reply(200, [1]),
            lookup(stale=True),
            lookup(errors=[{"fqdn": "x"}]),
            lookup(nodeSelector={}),
        ]
        for reply in answers:
            self.server.answers[NAME] = reply
            with self.subTest(reply):
                self.assertTrue(self.relocator.try_round())
                self.assertEqual(self.cluster.evictions(), [])

    def test_a_lookup_service_that_is_down(self) -> None:
        for fault in (break_off, break_off_halfway):
            self.server.answers[NAME] = fault
            with self.assertLogs(level="ERROR") as log:
                self.assertFalse(self.relocator.try_round())
            self.assertIn("/lookup: ", log.output[0])
        self.assertEqual(self.cluster.evictions(), [])

    def test_pauses_grow_and_begin_anew(self) -> None:
        relocator = self.cluster.relocator(RELOCATE_INTERVAL="20")
        outcomes = iter([False] * 7 + [True, False])
        with (
            mock.patch.object(relocator, "try_round", lambda: next(outcomes)),
            mock.patch.object(relocator.stopping, "wait", side_effect=[False] * 9 + [True]) as wait,
        ):
            relocator.run()
        pauses = [call.args[0] for call in wait.call_args_list]
        self.assertEqual(pauses, [0, 1, 2, 4, 8, 16, 20, 20, 20, 1])


EVICTION = "POST /api/v1/namespaces/shop/pods/web-0/eviction"


class LeaderTest(unittest.TestCase):
    """One of several acts, and the next one goes on from where it was."""

    def setUp(self) -> None:
        self.cluster = Cluster(self.enterContext(api_server()))
        self.server = self.cluster.server
        self.relocator = self.cluster.relocator()

    def left(self) -> Json:
        """What the Lease says that the next leader must know."""
        note: Json = json.loads(self.cluster.lease["metadata"]["annotations"][HISTORY_ANNOTATION])
        return note

    def test_a_move_is_written_down_before_it_is_begun(self) -> None:
        left = []

        def look_at_the_lease(connection: socket.socket) -> None:
            left.extend(self.left()["moves"])
            connection.shutdown(socket.SHUT_RDWR)

        self.server.faults[EVICTION] = [look_at_the_lease]
        with self.assertLogs(level="ERROR"):
            self.assertFalse(self.relocator.try_round())
        ((namespace, kind, name, _, uid, *_),) = left
        self.assertEqual((namespace, kind, name, uid), ("shop", "Deployment", "web", "uid-web-0"))

    def test_who_has_lost_the_lease_evicts_nobody(self) -> None:
        """Also if that was while it looked: it has not noticed."""
        path = f"PUT {LEASES}/{LEASE}"
        for fault in (refusal(409, "Conflict"), refusal(500), break_off):
            self.server.faults[path] = [fault]
            with self.subTest(fault), self.assertLogs(level="ERROR"):
                self.assertFalse(self.relocator.try_round())
            self.relocator.election.attempt()
        self.assertEqual(self.cluster.evictions(), [])

    def test_the_next_leader_knows_who_is_on_the_move(self) -> None:
        self.relocator.round()
        for _ in range(2):
            relocator = self.cluster.relocator()
            relocator.round()
            self.assertEqual(relocator.metrics.moving, 1)
        replace(self.cluster.pods, "web-0", "web-2", "c1")
        relocator.round()
        relocator = self.cluster.relocator()
        relocator.round()
        self.assertEqual((relocator.metrics.moving, relocator.metrics.backed_off), (0, 1))
        self.assertEqual(self.cluster.evictions(), ["web-0"])

    def test_an_eviction_whose_answer_was_lost_counts(self) -> None:
        for fault in (break_off_halfway, refusal(504, "Timeout"), refusal(500, "ServerTimeout")):
            relocator = self.cluster.relocator()
            self.server.faults[EVICTION] = [fault]
            with self.subTest(fault), self.assertLogs(level="ERROR"):
                self.assertFalse(relocator.try_round())
                relocator.round()
                self.assertEqual(relocator.metrics.moving, 1)
            self.cluster.leader.save("")
        self.assertEqual(self.cluster.evictions(), [])

    def test_a_refused_eviction_is_taken_back(self) -> None:
        self.server.faults[EVICTION] = [refusal(429)]
        with self.assertLogs(level="WARNING"):
            self.relocator.round()
        self.assertEqual(self.left()["moves"], [])

    def test_names_of_those_elsewhere_are_left(self) -> None:
        self.cluster.pods.append(pod("x", "b1", metadata={"annotations": {A: "other.test"}}))
        self.server.answers["other.test"] = lookup()
        self.relocator.round()
        self.assertEqual(self.left()["seen"].keys(), {NAME})

    def test_how_long_an_answer_was_the_same_is_left(self) -> None:
        relocator = self.cluster.relocator(RELOCATE_AFTER="300")
        relocator.round()
        seen = relocator.history.seen[NAME]
        relocator.history = relocator.history._replace(seen={NAME: seen._replace(seconds=299.5)})
        relocator.round()
        self.assertEqual(self.cluster.evictions(), [])
        relocator = self.cluster.relocator(RELOCATE_AFTER="299.5")
        relocator.round()
        self.assertEqual(self.cluster.evictions(), ["web-0"])

    def test_nonsense_in_the_lease(self) -> None:
        self.cluster.leader.save("nonsense")
        with self.assertLogs(level="WARNING") as log:
            self.cluster.relocator().round()
        self.assertIn("begins anew", log.output[0])

    def test_a_failed_round_interrupts(self) -> None:
        self.relocator.round()
        self.assertIsNotNone(self.relocator.history.seen[NAME].at)
        self.server.faults[f"GET {NODES}"] = [refusal(500)]
        with self.assertLogs(level="ERROR"):
            self.relocator.try_round()
        self.assertIsNone(self.relocator.history.seen[NAME].at)

    def test_one_that_stands_by_looks_at_nothing_and_shows_nobody(self) -> None:
        self.relocator.round()
        self.assertEqual(self.relocator.metrics.pods.values["elsewhere",], 2)
        self.cluster.leader.release()
        self.server.requests.clear()
        wait = mock.Mock(side_effect=[False, False, True])
        with mock.patch.object(self.relocator.stopping, "wait", wait):
            self.relocator.run()
        self.assertEqual(self.server.requests, [])
        self.assertEqual(self.relocator.metrics.pods.values["elsewhere",], 0)
        self.assertEqual(self.relocator.metrics.moving, 0)


class WaitTest(unittest.TestCase):
    """How long somebody waits, and for what."""

    def setUp(self) -> None:
        self.cluster = Cluster(self.enterContext(api_server()))
        self.server = self.cluster.server

    def waits(self, relocator: Relocator) -> dict[str, float]:
        """The hours for which somebody waits, by reason; the database moved one ago."""
        moved = Seen(answer().fingerprint, time.time() - 3600, 0.0)
        self.cluster.leader.save(History({NAME: moved}).to_text([NAME]))
        with self.assertLogs(level="INFO"):
            relocator.round()
        levels = relocator.metrics.waiting.values.items()
        return {reason: round(seconds / 3600) for (reason,), seconds in levels if seconds}

    def test_by_reason(self) -> None:
        self.cluster.pods[:] = [pod("web-0", status=NOT_READY), pod("web-1")]
        self.assertEqual(self.waits(self.cluster.relocator()), {"pod": 1, "workload": 1})
        self.cluster.pods[:] = [pod("web-0")]
        for status, reason in ((429, "budget"), (404, "pod"), (500, "refused")):
            self.server.faults[EVICTION] = [refusal(status)]
            self.assertEqual(self.waits(self.cluster.relocator()), {reason: 1})
        none = self.cluster.relocator(RELOCATE_MAX_CONCURRENT="0")
        self.assertEqual(self.waits(none), {"limit": 1})
        later = self.cluster.relocator(RELOCATE_AFTER="60")
        self.assertEqual(self.waits(later), {"answer": 1})
        self.server.objects[WEB] = deployment(2, status={"availableReplicas": 1})
        self.assertEqual(self.waits(self.cluster.relocator()), {"workload": 1})
        self.server.objects[WEB] = deployment(2)
        self.assertEqual(self.waits(self.cluster.relocator()), {})

    def test_the_longest(self) -> None:
        """A Pod waits from its creation on, if that was later."""
        created = datetime.fromtimestamp(time.time() - 900, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        young = pod("web-1", metadata={"creationTimestamp": created})
        for pods, hours in (([pod("web-0"), young], 1), ([young], 0)):
            self.cluster.pods[:] = pods
            none = self.cluster.relocator(RELOCATE_MAX_CONCURRENT="0")
            self.assertEqual(self.waits(none)["limit"], hours)


class LookupTest(unittest.TestCase):
    def setUp(self) -> None:
        self.server = self.enterContext(api_server())
        self.url = parse_url(f"{self.server.url}/lookup")

    def test_each_name_is_asked_for_once(self) -> None:
        names = [f"n{n}.test" for n in range(40)]
        self.server.answers = {each: lookup(f"zone-{each}") for each in names[:30]}
        answers = ask_all(self.url, names * 3)
        self.assertEqual(len(self.server.requests), 40)
        for number, each in enumerate(names):
            found = answers[each]
            said = found if isinstance(found, str) else found.zone
            self.assertEqual(said, f"zone-{each}" if number < 30 else "NameNotFound")

    def test_what_is_no_name_is_not_asked_for(self) -> None:
        names = ["", "a b", "a&b", "a\n", "\x1b[31m", "ä.test", "a?b", "x/y"]
        self.assertEqual(ask_all(self.url, names), dict.fromkeys(names, "InvalidName"))
        self.assertEqual(self.server.requests, [])

    def test_a_service_that_answers_nothing_is_not_asked_for_long(self) -> None:
        names = [f"n{n}.test" for n in range(100)]
        self.server.answers = dict.fromkeys(names, break_off)
        with self.assertRaises(LookupFailure):
            ask_all(self.url, names)
        self.assertLess(len(self.server.requests), 2 * LOOKUPS)

    def test_a_name_that_fails_is_its_own_trouble(self) -> None:
        """Whichever it is: the first and the last that is asked for, too."""
        names = [f"n{n}.test" for n in range(2 * LOOKUPS)]
        for bad in (names[0], names[LOOKUPS], names[-1]):
            self.server.answers = dict.fromkeys(names, lookup()) | {bad: break_off}
            answers = ask_all(self.url, names)
            failed = [name for name, answer in answers.items() if isinstance(answer, str)]
            self.assertEqual((failed, answers[bad]), ([bad], "LookupFailure"))

    def test_a_name_of_which_dns_says_nothing_is_answered_in_time(self) -> None:
        """The service gives up before relocation does, whatever its DNS_TIMEOUT."""
        with self.assertRaises(InvalidSetting):
            LookupSettings.from_environment({"DNS_TIMEOUT": str(LOOKUP_TIMEOUT - 2)})

    def test_an_ambiguous_zone(self) -> None:
        nowhere = {"nodeLabels": [], "nodeSelector": {}, "ambiguous": True}
        for more, expected in ((nowhere, "ZoneAmbiguous"), ({"ambiguous": True}, None)):
            self.server.answers = {"a.test": lookup(**more)}
            (found,) = ask_all(self.url, ["a.test"]).values()
            self.assertEqual(found if isinstance(found, str) else None, expected)

    def test_the_url_may_do_without_the_path(self) -> None:
        self.server.answers = {"a.test": lookup()}
        for path in ("", "/", "/lookup", "/lookup/"):
            answers = ask_all(parse_url(self.server.url + path), ["a.test"])
            self.assertNotIsInstance(answers["a.test"], str, path)

    def test_no_names(self) -> None:
        self.assertEqual(ask_all(self.url, []), {})


class SettingsTest(unittest.TestCase):
    def test_bad_ones(self) -> None:
        for name, values in BAD_SETTINGS.items():
            for value in values if name != "HOST" else ():
                with self.subTest(name, value=value), self.assertRaisesRegex(InvalidSetting, name):
                    RelocationSettings.from_environment({name: value})

    def test_all_are_tested(self) -> None:
        names = {each.name.upper() for each in fields(RelocationSettings)}
        self.assertEqual(names, BAD_SETTINGS.keys())

    def test_good_ones(self) -> None:
        for name, value, expected in GOOD_SETTINGS:
            with self.subTest(name, value=value):
                settings = RelocationSettings.from_environment({name: value})
                self.assertEqual(getattr(settings, name.lower()), expected)

    def test_misspelt_ones(self) -> None:
        for name, meant in MISSPELT:
            with self.subTest(name):
                warnings = list(RelocationSettings.misspelt({name: ""}))
                self.assertEqual(len(warnings), 1 if meant else 0, warnings)
                self.assertTrue(all(f"{meant} is one" in each for each in warnings))


class ReportTest(unittest.TestCase):
    def setUp(self) -> None:
        self.cluster = Cluster(self.enterContext(api_server()))
        self.server = self.cluster.server

    def report(self, asks: str = "", **query: str) -> list[str]:
        api = Client(parse_url(self.server.url))
        lines = report(api, self.cluster.settings(RELOCATE_AFTER="300"), asks, query)
        self.assertEqual(self.server.created, [])
        return lines

    def test_who_is_elsewhere(self) -> None:
        self.cluster.pods.append(pod("web-2", "b1"))
        lines = self.report()
        self.assertEqual(re.split(r"\s{3,}", lines[0]), list(COLUMNS))
        rows = [re.split(r"\s{3,}", line) for line in lines[1:3]]
        shared = ["zone-b", "zone-a", "2026-01-01T00:00Z"]
        self.assertEqual(rows[0], ["shop", "Deployment/web", "web-0", NAME, *shared, "evict"])
        self.assertEqual(rows[1][-1], "nothing: another Pod of its workload goes first")
        self.assertEqual(
            lines[4:],
            [
                "3 Pods: 1 in their database's zone, 2 elsewhere, 0 unknown.",
                "1 would be evicted, at most 3 at once, if the answers stay the same for 300 s.",
            ],
        )

    def test_nobody_is_elsewhere(self) -> None:
        self.cluster.pods[:] = [pod("web-0", "b1")]
        self.assertEqual(
            self.report(), ["1 Pods: 1 in their database's zone, 0 elsewhere, 0 unknown."]
        )

    def test_pods_that_were_never_placed(self) -> None:
        self.cluster.pods[:] = [pod("web-0", metadata={"labels": None})]
        self.assertIn("nothing: it was not placed when it was created", self.report()[1])
        self.assertNotIn("labelSelector", self.server.asked("GET", PODS)[0].query)

    def test_pods_without_the_annotation(self) -> None:
        self.cluster.pods[:] = [
            pod("web-0", metadata={"annotations": None, "labels": None}),
            pod("web-1", "b1", metadata={"annotations": None}),
        ]
        path = "/api/v1/namespaces/shop/pods"
        self.server.lists[path] = self.cluster.pods
        lines = self.report(NAME, namespace="shop", labelSelector="app=web,tier in (a, b)")
        self.assertIn(NAME, lines[1])
        self.assertEqual(lines[3], "2 Pods: 1 in their database's zone, 1 elsewhere, 0 unknown.")
        (request,) = self.server.asked("GET", path)
        self.assertEqual(request.query["labelSelector"], "app=web,tier in (a, b)")
        self.assertEqual(
            self.report(), ["0 Pods: 0 in their database's zone, 0 elsewhere, 0 unknown."]
        )

    def test_a_workload_that_is_not_whole(self) -> None:
        self.server.objects = {}
        self.assertIn("nothing: not all Pods of its workload", self.report()[1])

    def test_names_without_an_answer(self) -> None:
        self.cluster.pods[:] = [
            pod(f"p{n}", metadata={"annotations": {A: f"n{n % 25}.test"}}) for n in range(50)
        ]
        self.cluster.pods.append(pod("x", metadata={"annotations": {A: "\x1b[31m"}}))
        lines = self.report()
        self.assertIn("51 unknown", lines[0])
        self.assertIn("unknown: 'n0.test': NameNotFound, 2 Pods", lines)
        self.assertEqual(lines[-1], "unknown: 6 more names")
        self.assertEqual(len(lines), 22)
        self.assertNotIn("\x1b", "".join(lines))


class MetricsPortTest(unittest.TestCase):
    def setUp(self) -> None:
        self.relocator = Cluster(self.enterContext(api_server())).relocator()
        self.program = Program(self.relocator)
        self.loop = asyncio.new_event_loop()
        self.addCleanup(self.loop.close)
        thread = threading.Thread(target=self.loop.run_forever)
        thread.start()
        self.addCleanup(thread.join, DEADLINE)
        self.addCleanup(self.loop.call_soon_threadsafe, self.loop.stop)
        listener = listen("127.0.0.1", 0)
        self.complete(self.program.port.listen(listener))
        self.addCleanup(lambda: self.complete(self.program.port.drain()))
        self.remote = Remote(listener.getsockname()[1])

    def complete(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self.loop).result(DEADLINE)

    def test_all_samples_are_there_before_the_first_round(self) -> None:
        samples = [line.partition(" ")[0] for line in self.samples()]
        for outcome in get_args(EvictionResult):
            self.assertIn(
                f'automatic_zone_placement_relocation_evictions_total{{outcome="{outcome}"}}',
                samples,
            )
        ours = [each for each in samples if each.startswith("automatic_zone_placement_relocation")]
        self.assertEqual(len(ours), 3 + 8 + 4 + 2 + 4)
        self.assertIn("process_resident_memory_bytes", samples)

    def samples(self) -> list[str]:
        response = self.remote.request("/metrics")
        self.assertEqual(response.status, 200)
        self.assertTrue(response.headers["Content-Type"].startswith("text/plain; version=0.0.4"))
        return [line for line in response.body.splitlines() if not line.startswith("#")]

    def test_no_sample_comes_later(self) -> None:
        """The table of a counter must not grow while it is read in another thread."""
        before = [line.partition(" ")[0] for line in self.samples()]
        self.relocator.try_round()
        self.assertEqual([line.partition(" ")[0] for line in self.samples()], before)
        self.assertEqual(self.remote.metric('relocation_evictions_total{outcome="evicted"}'), 1)
        self.assertEqual(self.remote.metric('relocation_rounds_total{outcome="success"}'), 1)
        self.assertEqual(self.remote.metric('relocation_pods{landed="elsewhere"}'), 2)
        self.assertGreater(self.remote.metric("relocation_last_success_timestamp_seconds"), 1e9)

    def test_health(self) -> None:
        self.assertEqual(self.remote.request("/healthz").body, {"status": "ok"})

    def test_nothing_else(self) -> None:
        response = self.remote.request("/x")
        self.assertEqual((response.status, response.body["reason"]), (404, "NotFound"))

    def test_readiness(self) -> None:
        self.assertEqual(self.remote.request("/readyz").status, 200)
        self.program.stop()
        self.assertEqual(self.remote.request("/readyz").status, 503)
        self.assertEqual(self.remote.request("/healthz").status, 200)

    def test_slow_clients_keep_nobody_from_an_answer(self) -> None:
        """However many begin a request and never end it."""
        with ExitStack() as slow:
            for _ in range(3 * MAX_CONNECTIONS):
                connection = slow.enter_context(self.remote.connect())
                with suppress(ConnectionError):
                    connection.sendall(b"GET /healthz HTTP/1.1\r\n")
            for path in ("/healthz", "/metrics"):
                self.assertEqual(self.remote.request(path).status, 200)


class ProcessTest(unittest.TestCase):
    """`python3 -m relocation` as a process."""

    def setUp(self) -> None:
        self.cluster = Cluster(self.enterContext(api_server()))

    def complete(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *PROGRAM, *arguments],
            env={"PATH": os.environ["PATH"], "PORT": "0"} | environment,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
        )

    @contextmanager
    def running(self, **environment: str) -> Iterator[subprocess.Popen[str]]:
        more = self.cluster.environment(PORT="0", HOST="127.0.0.1", RELOCATE_INTERVAL="0.1")
        with subprocess.Popen(
            [sys.executable, *PROGRAM],
            env={"PATH": os.environ["PATH"]} | more | environment,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                with suppress(ProcessLookupError):
                    process.kill()

    def test_it_evicts_and_ends(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            self.cluster.server.created.clear()
            self.cluster.server.objects.pop(
                f"{LEASES}/{LEASE}", None
            )  # or it would remember that the Pod is on the move
            with self.subTest(number), self.running() as process:
                wait_until(lambda: len(self.cluster.evictions()) == 1)
                process.send_signal(number)
                _, log = process.communicate(timeout=DEADLINE)
                self.assertEqual(process.returncode, 0)
                self.assertRegex(log, "pod=shop/web-0 .*: evicted")
                self.assertTrue(log.endswith("INFO stopped\n"))

    def test_it_ends_in_the_middle_of_a_call_that_hangs(self) -> None:
        asked, done = threading.Event(), threading.Event()

        def hang(_connection: object) -> None:
            asked.set()
            done.wait(DEADLINE)

        self.addCleanup(done.set)
        for path in (f"GET {NODES}", "GET /lookup"):
            asked.clear()
            self.cluster.server.objects.pop(
                f"{LEASES}/{LEASE}", None
            )  # which the former one had no time to give back
            self.cluster.server.faults[path] = [hang] * 100
            with self.subTest(path), self.running() as process:
                self.assertTrue(asked.wait(DEADLINE))
                process.terminate()
                process.communicate(timeout=DEADLINE)
                self.assertEqual(process.returncode, 0)
            self.cluster.server.faults.clear()

    def test_a_second_signal_ends_it_at_once(self) -> None:
        done = threading.Event()
        self.addCleanup(done.set)

        def hang(_connection: object) -> None:
            done.wait(DEADLINE)

        self.cluster.server.faults[f"GET {NODES}"] = [hang] * 9
        with self.running() as process:
            wait_until(lambda: bool(self.cluster.server.asked("GET", NODES)))
            process.terminate()
            time.sleep(0.1)  # two at once are one
            process.terminate()
            self.assertEqual(process.wait(DEADLINE), 128 + signal.SIGTERM)

    def test_two_at_once_keep_the_pace_of_one(self) -> None:
        """Also when the one that leads ends, and the other goes on."""
        for n in range(6):
            owned = {"ownerReferences": owner("StatefulSet", f"db{n}")}
            self.cluster.pods.append(pod(f"db{n}-0", metadata=owned))
            path = f"/apis/apps/v1/namespaces/shop/statefulsets/db{n}"
            self.cluster.server.objects[path] = deployment(1, kind="StatefulSet")
        server = self.cluster.server
        with self.running() as first:
            wait_until(lambda: len(self.cluster.evictions()) == 3)
            reads = len(server.asked("GET", LEASES))
            with self.running():
                wait_until(lambda: len(server.asked("GET", LEASES)) > reads)
                first.terminate()
                first.wait(DEADLINE)
                rounds = len(server.asked("GET", NODES))
                wait_until(lambda: len(server.asked("GET", NODES)) > rounds + 5)
        self.assertEqual(self.cluster.evictions(), ["web-0", "db0-0", "db1-0"])

    def test_an_api_server_that_comes_later(self) -> None:
        self.cluster.server.faults[f"GET {NODES}"] = [refusal(503), break_off]
        with self.running():
            wait_until(lambda: len(self.cluster.evictions()) == 1)

    def test_bad_settings(self) -> None:
        for name in ("HOST", "RELOCATE_AFTER"):
            environment = self.cluster.environment() | {name: BAD_SETTINGS[name][0]}
            with self.subTest(name):
                run = self.complete(**environment)
                self.assertEqual((run.returncode, len(run.stderr.splitlines())), (2, 1), run.stderr)
                self.assertIn(name, run.stderr)

    def test_outside_of_a_cluster(self) -> None:
        run = self.complete()
        self.assertEqual(run.returncode, 2)
        self.assertIn("KUBERNETES_URL is not set", run.stderr)

    def test_bad_arguments(self) -> None:
        for arguments, named in BAD_ARGUMENTS:
            complaint = io.StringIO()
            with self.subTest(arguments), redirect_stderr(complaint):
                with self.assertRaises(SystemExit) as caught:
                    options_of(arguments)
                self.assertEqual(caught.exception.code, 2)
                self.assertIn(named, complaint.getvalue())

    def test_help(self) -> None:
        run = self.complete("--help", RELOCATE_AFTER="7")
        self.assertEqual(run.returncode, 0)
        for name in BAD_SETTINGS:
            self.assertIn(name, run.stdout)
        self.assertIn("RELOCATE_AFTER (default '300', now '7')", run.stdout)

    def test_a_report(self) -> None:
        run = self.complete("--report", **self.cluster.environment(RELOCATE_AFTR="1"))
        self.assertEqual(run.returncode, 0)
        self.assertIn("2 Pods: 0 in their database's zone, 2 elsewhere", run.stdout)
        self.assertRegex(run.stderr, "^warning: .*RELOCATE_AFTR.*RELOCATE_AFTER is one\n$")
        self.assertEqual(self.cluster.server.created, [])

    def test_a_report_of_what_cannot_be_read(self) -> None:
        self.cluster.server.faults[f"GET {NODES}"] = [refusal(403, "Forbidden", "forbidden")]
        run = self.complete("--report", **self.cluster.environment())
        self.assertEqual((run.returncode, run.stdout), (1, ""))
        self.assertEqual(run.stderr, f"GET {NODES}: forbidden\n")

    def test_a_report_without_a_lookup_service(self) -> None:
        self.cluster.server.answers = {NAME: break_off}
        run = self.complete("--report", **self.cluster.environment())
        self.assertEqual((run.returncode, run.stdout), (1, ""))
        self.assertRegex(run.stderr, r"^http://127\.0\.0\.1:\d+/lookup: .+\n$")

    def test_a_reader_of_the_report_that_has_enough(self) -> None:
        self.cluster.pods[:] = [pod(f"web-{n}") for n in range(2000)]
        run = subprocess.run(
            ["sh", "-c", '"$0" -m relocation --report | true', sys.executable],
            env={"PATH": os.environ["PATH"]} | self.cluster.environment(),
            capture_output=True,
            text=True,
            timeout=DEADLINE,
        )
        self.assertEqual(run.stderr, "")


class DocumentationTest(unittest.TestCase):
    """The tables of docs/relocation.md have what the code has, no more and no less."""

    def table(self, header: str) -> list[list[str]]:
        """The cells of the table with this header, without what is code in them marked as such."""
        page = (ROOT / "docs" / "relocation.md").read_text()
        rows = page.partition(f"{header}\n")[2].partition("\n\n")[0].splitlines()[1:]
        return [[cell.strip(" `") for cell in row.split("|")[1:-1]] for row in rows]

    def test_settings(self) -> None:
        documented = {
            name: default for name, default, _ in self.table("| variable | default | meaning |")
        }
        known = {each.name.upper(): each.metadata["default"] for each in fields(RelocationSettings)}
        self.assertEqual(documented, known | {"HOST": "all interfaces"})

    def test_metrics(self) -> None:
        lines = render(RelocationMetrics().families()).decode()
        types = dict(
            re.findall(r"^# TYPE automatic_zone_placement_(\w+) (\w+)$", lines, re.MULTILINE)
        )
        documented = {
            name: kind for name, kind, _ in self.table("| metric | type | what it counts |")
        }
        self.assertEqual(documented, types | {"log_lines_dropped_total": "counter"})

    def test_reasons_to_wait(self) -> None:
        documented = [reason for reason, _ in self.table("| reason | what keeps it |")]
        self.assertEqual(documented, list(get_args(Wait)))


if __name__ == "__main__":
    unittest.main()
