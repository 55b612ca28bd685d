"""Leader election: tables of Leases, and candidates whose clock the test turns."""

from __future__ import annotations

import threading
import unittest
from typing import Any

from common.kubernetes import Client, KubernetesError, Refused, Unreachable, parse_url
from common.lease import (
    CALL_TIMEOUT,
    LEASE_DURATION,
    RENEW_DEADLINE,
    RETRY_PERIOD,
    LeaderElection,
    NotLeading,
    Sighting,
    bid,
)
from tests.api_server import api_server, break_off_halfway, refusal
from tests.support import DEADLINE, wait_until

LEASES = "/apis/coordination.k8s.io/v1/namespaces/n/leases"
LEASE = f"{LEASES}/job"
NOTE = "example.com/note"

Json = dict[str, Any]

OURS: Json = {
    "holderIdentity": "me",
    "leaseDurationSeconds": 15,
    "acquireTime": "before",
    "renewTime": "before",
    "leaseTransitions": 4,
}
ANOTHER_S = OURS | {"holderIdentity": "you"}
TAKEN = {
    "holderIdentity": "me",
    "leaseDurationSeconds": 15,
    "acquireTime": "now",
    "renewTime": "now",
    "leaseTransitions": 5,
}

# a Lease, whether it is free, and what `me` makes of it
BIDS: list[tuple[Json, bool, Json | None]] = [
    ({}, True, TAKEN | {"leaseTransitions": 0}),
    (OURS, False, OURS | {"renewTime": "now"}),
    (OURS, True, OURS | {"renewTime": "now"}),
    (OURS | {"leaseDurationSeconds": 99}, False, OURS | {"renewTime": "now"}),
    (ANOTHER_S, False, None),
    (ANOTHER_S, True, TAKEN),
    (ANOTHER_S | {"leaseTransitions": None}, True, TAKEN | {"leaseTransitions": 1}),
    (ANOTHER_S | {"holderIdentity": ""}, True, TAKEN),
]

# a Lease, seconds since it was seen first, and whether it is free
FREE: list[tuple[Json, float, bool]] = [
    ({}, 0, True),
    (ANOTHER_S, 14.9, False),
    (ANOTHER_S, 15, True),
    (ANOTHER_S | {"leaseDurationSeconds": 60}, 59.9, False),
    (ANOTHER_S | {"leaseDurationSeconds": 60}, 60, True),
    (ANOTHER_S | {"leaseDurationSeconds": None}, 14.9, False),
    (ANOTHER_S | {"leaseDurationSeconds": None}, 15, True),
    (ANOTHER_S | {"holderIdentity": ""}, 0, True),
    (ANOTHER_S | {"holderIdentity": None}, 0, True),
]


class RuleTest(unittest.TestCase):
    def test_bids(self) -> None:
        for spec, is_free, expected in BIDS:
            with self.subTest(spec, is_free=is_free):
                self.assertEqual(bid(spec, "me", is_free, "now"), expected)

    def test_who_is_free(self) -> None:
        for spec, seconds, expected in FREE:
            with self.subTest(spec, seconds=seconds):
                self.assertEqual(Sighting(spec, 100.0).is_free(100.0 + seconds), expected)

    def test_a_leader_gives_up_before_another_begins(self) -> None:
        self.assertLess(RENEW_DEADLINE, LEASE_DURATION)
        self.assertLess(RETRY_PERIOD + 2 * CALL_TIMEOUT, RENEW_DEADLINE + 1)


class ElectionTest(unittest.TestCase):
    """Two candidates, one API server, and a clock for each."""

    def setUp(self) -> None:
        self.server = self.enterContext(api_server())
        self.now = 1000.0
        self.first, self.second = self.candidate(), self.candidate()

    def candidate(self) -> LeaderElection:
        api = Client(parse_url(self.server.url))
        return LeaderElection(api, "n", "job", NOTE, clock=lambda: self.now)

    @property
    def lease(self) -> Json:
        return self.server.objects[LEASE]

    def test_the_first_leads(self) -> None:
        self.assertEqual((self.first.attempt(), self.second.attempt()), (True, False))
        self.assertEqual((self.first.is_leading(), self.second.is_leading()), (True, False))
        self.assertEqual(self.lease["spec"]["holderIdentity"], self.first.identity)
        self.assertRegex(self.lease["spec"]["renewTime"], r"^\d{4}-\d\d-\d\dT[\d:]{8}\.\d{6}Z$")
        self.assertEqual(self.lease["apiVersion"], "coordination.k8s.io/v1")

    def test_nobody_leads_before_an_attempt(self) -> None:
        self.assertFalse(self.first.is_leading())
        with self.assertRaises(NotLeading):
            self.first.save("x")

    def test_a_leader_that_is_gone_is_followed_after_the_duration(self) -> None:
        self.first.attempt()
        for seconds, takes in ((0, False), (14.9, False), (0.1, True)):
            self.now += seconds
            self.assertEqual(self.second.attempt(), takes, seconds)
        self.assertEqual(self.lease["spec"]["leaseTransitions"], 1)
        self.assertFalse(self.first.is_leading())
        with self.assertRaises(NotLeading):
            self.first.save("x")
        with self.assertRaisesRegex(Refused, "PUT"):  # of a version that is no longer there
            self.first.attempt()
        self.assertFalse(self.first.attempt())

    def test_a_leader_that_renews_is_not_followed(self) -> None:
        self.first.attempt()
        for _ in range(30):
            self.now += RETRY_PERIOD
            self.assertTrue(self.first.attempt())
            self.assertFalse(self.second.attempt())
        self.assertEqual(self.lease["spec"]["leaseTransitions"], 0)

    def test_how_old_a_lease_is_when_it_is_first_seen_says_nothing(self) -> None:
        """The other machine's clock may be wrong."""
        self.server.objects[LEASE] = {"metadata": {"name": "job"}, "spec": ANOTHER_S}
        self.assertFalse(self.first.attempt())
        self.now += LEASE_DURATION
        self.assertTrue(self.first.attempt())

    def test_a_leader_that_cannot_renew_gives_up_before_the_duration(self) -> None:
        self.first.attempt()
        self.server.faults[f"PUT {LEASE}"] = [break_off_halfway, refusal(500)]
        for error in (Unreachable, Refused):
            self.now += RENEW_DEADLINE / 2 - 0.1
            with self.assertRaises(error):
                self.first.attempt()
            self.assertTrue(self.first.is_leading())
        self.now += 0.2
        self.assertFalse(self.first.is_leading())
        self.assertTrue(self.first.attempt())  # nobody else has taken it

    def test_after_a_write_whose_outcome_is_unknown_the_lease_is_read(self) -> None:
        self.first.attempt()
        self.server.faults[f"PUT {LEASE}"] = [break_off_halfway]
        with self.assertRaises(Unreachable):
            self.first.save("x")
        self.lease["metadata"]["resourceVersion"] = "77"
        self.assertTrue(self.first.attempt())

    def test_one_that_wakes_up_late_writes_nothing_over_another_s_lease(self) -> None:
        """Its clock stood still as well: it takes itself for the leader."""
        self.first.attempt()
        self.now += LEASE_DURATION - 0.1
        self.second.attempt()
        self.second.attempt()
        self.now += LEASE_DURATION
        self.assertTrue(self.second.attempt())
        self.second.save("of the second")
        self.now = 1000.0
        self.assertTrue(self.first.is_leading())
        with self.assertRaises(Refused) as caught:
            self.first.save("of the first")
        self.assertEqual(caught.exception.status, 409)
        self.assertEqual(self.lease["metadata"]["annotations"][NOTE], "of the second")

    def test_the_note_is_handed_on(self) -> None:
        self.first.attempt()
        self.first.save("remember")
        term = self.first.term
        self.first.attempt()
        self.assertEqual((self.first.note, self.first.term), ("remember", term))
        self.second.attempt()
        self.now += LEASE_DURATION
        self.assertTrue(self.second.attempt())
        self.assertEqual(self.second.note, "remember")
        self.assertNotEqual(self.second.term, term)
        self.assertEqual(self.lease["metadata"]["annotations"][NOTE], "remember")

    def test_a_note_that_was_not_written_is_not_had(self) -> None:
        self.first.attempt()
        self.server.faults[f"PUT {LEASE}"] = [refusal(422, "Invalid")]
        with self.assertRaises(Refused):
            self.first.save("too long")
        self.assertEqual(self.first.note, "")

    def test_what_others_have_put_there_stays(self) -> None:
        self.server.objects[LEASE] = {
            "metadata": {
                "name": "job",
                "labels": {"a": "b"},
                "annotations": {"c": "d"},
                "resourceVersion": "5",
            },
            "spec": {},
        }
        self.assertTrue(self.first.attempt())
        self.assertEqual(self.lease["metadata"]["labels"], {"a": "b"})
        self.assertEqual(self.lease["metadata"]["annotations"], {"c": "d", NOTE: ""})

    def test_one_that_stops_gives_it_back(self) -> None:
        self.first.attempt()
        self.first.save("remember")
        self.first.release()
        self.assertFalse(self.first.is_leading())
        self.assertEqual(self.lease["spec"]["holderIdentity"], "")
        self.assertTrue(self.second.attempt())
        self.assertEqual(self.second.note, "remember")
        self.first.release()
        self.assertEqual(self.lease["spec"]["holderIdentity"], self.second.identity)

    def test_one_that_does_not_lead_gives_nothing_back(self) -> None:
        self.first.attempt()
        self.second.attempt()
        self.second.release()
        self.assertEqual(self.lease["spec"]["holderIdentity"], self.first.identity)

    def test_a_lease_that_was_deleted(self) -> None:
        """Whoever creates it anew knows the note, whether it has led or not."""
        self.first.attempt()
        self.first.save("remember")
        self.second.attempt()
        for candidate in (self.first, self.second):
            self.server.objects.clear()
            with self.subTest(candidate.identity):
                if candidate is self.first:
                    with self.assertRaises(KubernetesError):
                        candidate.attempt()
                self.assertTrue(candidate.attempt())
                self.assertEqual(self.lease["metadata"]["annotations"][NOTE], "remember")

    def test_two_that_create_it_at_once(self) -> None:
        self.server.faults[f"GET {LEASE}"] = [refusal(404, "NotFound"), refusal(404, "NotFound")]
        self.assertTrue(self.first.attempt())
        with self.assertRaises(Refused):
            self.second.attempt()
        self.assertFalse(self.second.attempt())


class RunTest(unittest.TestCase):
    def test_it_leads_until_it_is_stopped(self) -> None:
        with api_server() as server, self.assertLogs(level="INFO") as log:
            server.faults[f"GET {LEASE}"] = [refusal(403, "Forbidden", "leases is forbidden")]
            election = LeaderElection(Client(parse_url(server.url)), "n", "job", NOTE)
            stopping = threading.Event()
            thread = threading.Thread(target=election.run, args=(stopping,))
            thread.start()
            wait_until(election.is_leading)
            stopping.set()
            thread.join(DEADLINE)
        self.assertIn("leases is forbidden", log.output[0])
        self.assertIn(f"held by {election.identity}", log.output[1])


if __name__ == "__main__":
    unittest.main()
