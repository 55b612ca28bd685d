"""What `helm test` runs: when it says that Pods are placed, and what it says if they are not."""

from __future__ import annotations

import json
import sys
import tempfile
import unittest
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from common.kubernetes import Client, parse_url
from tests.api_server import Reply, api_server, refusal
from tests.chart import FILES

_SPEC = spec_from_file_location("verify", FILES / "verify.py")
assert _SPEC and _SPEC.loader
verify: Any = module_from_spec(_SPEC)
sys.modules["verify"] = verify  # where dataclasses look for it
_SPEC.loader.exec_module(verify)

TABLE = [
    {"CIDRBlock": "10.0.0.0/24", "AvailabilityZone": "eu-central-1a"},
    {"CIDRBlock": "10.0.1.0/24", "AvailabilityZone": "eu-central-1b"},
]
PODS = "/api/v1/namespaces/zones/pods"
LABEL = {"key": "topology.kubernetes.io/zone", "values": ["eu-central-1b"], "weight": 100}
AVOIDED = Reply(200, {"zone": "eu-central-1a", "nodeLabels": []})
FOUND = Reply(200, {"zone": "eu-central-1b", "nodeLabels": [LABEL]})


def pod(*terms: Any) -> Reply:
    """A Pod as the API server answers with it, with these preferences."""
    affinity = {"nodeAffinity": {verify.PREFERRED: list(terms)}}
    return Reply(201, {"spec": {"affinity": affinity} if terms else {}})


def term(zone: str) -> Any:
    expression = {"key": LABEL["key"], "operator": "In", "values": [zone]}
    return {"weight": 100, "preference": {"matchExpressions": [expression]}}


class VerifyTest(unittest.TestCase):
    def setUp(self) -> None:
        self.server = self.enterContext(api_server())
        file = Path(self.enterContext(tempfile.TemporaryDirectory())) / "subnets.json"
        file.write_text(json.dumps(TABLE))
        self.environment = {
            "LOOKUP_URL": f"{self.server.url}/lookup",
            "SUBNETS_FILE": str(file),
            "ENGINE": "webhook",
            "TEST_NAMESPACE": "zones",
        }
        self.server.answers |= {"10.0.0.0": AVOIDED, "10.0.1.0": FOUND}

    def verify(self, created: Reply | None = None, **environment: str) -> str:
        """What it says, or why it fails, when this is the Pod that is created."""
        if created:
            self.server.faults[f"POST {PODS}"] = [created]
        settings = verify.VerifySettings.from_environment(self.environment | environment)
        try:
            said = verify.verify(Client(parse_url(self.server.url)), settings)
        except verify.Failure as failure:
            said = f"failure: {failure}"
        return str(said)

    def test_a_pod_is_placed(self) -> None:
        said = self.verify(pod(term("eu-central-1c"), term("eu-central-1b")))
        self.assertEqual(said, "a Pod for 10.0.1.0 is created with eu-central-1b, by webhook")
        (asked,) = self.server.asked("POST")
        self.assertEqual((asked.path, asked.query), (PODS, {"dryRun": "All"}))
        self.assertEqual(
            asked.body["metadata"]["annotations"], {"automatic-zone-placement": "10.0.1.0"}
        )

    def test_what_does_not_work_is_said(self) -> None:
        cases: tuple[tuple[Reply | None, dict[str, Reply], str], ...] = (
            (pod(), {}, "without eu-central-1b: look at the engine, webhook"),
            (pod(term("eu-central-1a")), {}, "without eu-central-1b"),
            (refusal(403, "Forbidden", "pods is forbidden"), {}, "pods is forbidden"),
            (None, {"10.0.1.0": AVOIDED}, "see AVOID_ZONES"),
            (None, {"10.0.0.0": Reply(503, {"reason": "Overloaded"})}, "Overloaded"),
        )
        for created, answers, words in cases:
            with self.subTest(words):
                self.server.answers |= {"10.0.0.0": AVOIDED, "10.0.1.0": FOUND} | answers
                said = self.verify(created)
                self.assertTrue(said.startswith("failure: "))
                self.assertIn(words, said)

    def test_nobody_is_there(self) -> None:
        said = self.verify(LOOKUP_URL="http://127.0.0.1:1/lookup")
        self.assertIn("failure: no answer from http://127.0.0.1:1/lookup", said)

    def test_without_an_engine_the_service_is_asked_alone(self) -> None:
        said = self.verify(ENGINE="none")
        self.assertIn("10.0.1.0 is in eu-central-1b; nothing else was asked for", said)
        self.assertFalse(self.server.asked("POST"))

    def test_names_that_are_kept_are_asked_for_first(self) -> None:
        self.server.answers["db.example.com"] = FOUND
        said = self.verify(
            pod(term("eu-central-1b")), ENGINE="keptDecisions", KEPT_NAMES="db.example.com"
        )
        self.assertIn("a Pod for db.example.com is created with eu-central-1b", said)


if __name__ == "__main__":
    unittest.main()
