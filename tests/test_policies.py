"""Both policies in the `kyverno` command: with mocked answers, and with the real service's."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path
from typing import ClassVar

ROOT = Path(__file__).resolve().parent.parent
PODS = ROOT / "kyverno" / "tests"
POLICIES = sorted((ROOT / "kyverno").glob("*policy/automatic-zone-placement.yaml"))

RACK = {"example.com/rack": "rack-a", "example.com/row": "row-2"}
SUBNETS = [
    {"CIDRBlock": cidr, "AvailabilityZone": zone, "AvailabilityZoneId": zone_id}
    for cidr, zone, zone_id in (
        ("192.168.0.0/19", "eu-central-1b", "euc1-az3"),
        ("192.168.32.0/19", "eu-central-1a", "euc1-az2"),
        ("192.168.64.0/19", "eu-central-1c", "euc1-az1"),
    )
] + [{"CIDRBlock": "10.20.0.0/16", "AvailabilityZone": "dc-1", "NodeLabels": RACK}]

# By file of Pods: the setting of the service that answers for them.
NODE_LABELS = {"pods": "topology.kubernetes.io/zone", "zone-id": "topology.k8s.aws/zone-id"}

# A network in which the Service's name and port are the test's: the policies run as they are.
# 192.0.2.1 is for documentation (RFC 5737); 127.0.0.1 is forbidden to the calls of a CEL policy.
ROOTLESS = os.geteuid() != 0
UNSHARE = ["unshare", "--net", "--mount", *(["--user", "--map-root-user"] * ROOTLESS)]
ENTER = ["nsenter", "--net", "--mount", *(["--user", "--preserve-credentials"] * ROOTLESS)]
HOSTS = "192.0.2.1 automatic-zone-placement.automatic-zone-placement.svc\n"
PORT = "8080"
FURNISH = """
ip link set lo up
ip address add 192.0.2.1/32 dev lo
mount --bind "$0" /etc/hosts
exec "$@"
"""

PATIENCE = 30.0  # seconds

Command = list[str | Path]
Pods = dict[str, str]


def furnished(hosts: Path, *command: str | Path) -> Command:
    """The command, in namespaces of its own."""
    hosts.write_text(HOSTS)
    return [*UNSHARE, "sh", "-ec", FURNISH, hosts, *command]


class Service:
    """The lookup service in namespaces of its own, and the `kyverno` command beside it."""

    def __init__(self, folder: Path, node_label: str) -> None:
        self.log = folder / "log"
        subnets = folder / "subnets.json"
        subnets.write_text(json.dumps(SUBNETS))
        settings = {"PORT": PORT, "SUBNETS_FILE": str(subnets), "NODE_LABEL": node_label}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                furnished(folder / "hosts", sys.executable, ROOT / "server.py"),
                env=os.environ | settings,
                stderr=log,
            )

    def __enter__(self) -> Service:
        deadline = time.monotonic() + PATIENCE
        while "listening" not in self.log.read_text():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"no service: {self.log.read_text()}")
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(PATIENCE)

    def asked(self) -> list[str]:
        """What it was asked for so far."""
        return re.findall(r" lookup '(.*?)' ", self.log.read_text())

    def apply(self, policy: Path, pods: Path) -> Pods:
        return apply(policy, pods, *ENTER, "--target", str(self.process.pid))


def apply(policy: Path, pods: Path, *prefix: str) -> Pods:
    """The Pods, by name, as `kyverno apply` writes them, whether it patched them or not."""
    with tempfile.TemporaryDirectory() as folder:
        options: Command = ["--resource", pods, "--output", folder]
        command: Command = [*prefix, "kyverno", "apply", policy, *options]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if run.returncode:
            raise AssertionError(run.stdout + run.stderr)
        return {
            each.name.removesuffix("-mutated.yaml"): each.read_text()
            for each in Path(folder).iterdir()
        }


def names_asked_for(pods: Path) -> list[str]:
    """Those that the service must be asked about."""
    asked = r"name: \S+-(?:patched|unplaced)\n(?: .*\n)*?    automatic-zone-placement: (.*)\n"
    return re.findall(asked, pods.read_text())


@unittest.skipUnless(shutil.which("kyverno"), "the kyverno command is not on PATH")
class PolicyTests(unittest.TestCase):
    folder: ClassVar[Path]

    @classmethod
    def setUpClass(cls) -> None:
        cls.folder = Path(cls.enterClassContext(tempfile.TemporaryDirectory()))

    def expected(self, pods: str) -> Pods:
        """The Pods as they must become, in the command's own words: from a policy that is idle."""
        idle = self.folder / "idle.yaml"
        idle.write_text(POLICIES[0].read_text().replace("CREATE", "DELETE"))
        return apply(idle, PODS / f"{pods}.yaml") | apply(idle, PODS / f"{pods}.patched.yaml")

    def test_mocked_answers(self) -> None:
        command: Command = ["kyverno", "test", PODS, "--remove-color"]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        self.assertEqual(run.returncode, 0, run.stdout + run.stderr)
        # The command is content with a policy that is invalid, or that matches nothing.
        results = re.findall(r"-(?:patched|unplaced) +│ (\w+ +│ \w+)", run.stdout)
        self.assertEqual(set(results), {"Pass   │ Ok"}, run.stdout)

    def test_real_answers(self) -> None:
        probe = furnished(self.folder / "hosts", "true")
        refusal = subprocess.run(probe, capture_output=True, text=True, check=False)
        if refusal.returncode:
            self.skipTest(f"no network of its own: {refusal.stderr.strip()}")
        for pods, node_label in NODE_LABELS.items():
            expected = self.expected(pods)
            for policy in POLICIES:
                with self.subTest(policy=policy.parent.name, pods=pods):
                    self.check(policy, pods, node_label, expected)

    def check(self, policy: Path, pods: str, node_label: str, expected: Pods) -> None:
        given, patched = PODS / f"{pods}.yaml", PODS / f"{pods}.patched.yaml"
        with Service(self.folder, node_label) as service:
            self.assertEqual(service.apply(policy, given), expected)
            self.assertEqual(service.asked(), names_asked_for(given))
            # An API server calls a webhook again when a later one has changed the Pod.
            self.assertLessEqual(service.apply(policy, patched).items(), expected.items())
            self.assertEqual(service.asked(), names_asked_for(given))


if __name__ == "__main__":
    unittest.main()
