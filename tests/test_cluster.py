"""The chart on a real API server, which CLUSTER_FOR_TESTS names by its kubeconfig.

It needs Kyverno's, cert-manager's and the Prometheus Operator's custom resource definitions, but none
of their programs, and no nodes. Everything is made in a namespace of its own, which goes when the
test ends; what is cluster-wide carries its name.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import unittest
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from lookup.table_reader import parse
from tests.chart import AVAILABLE, CHART, ROOT, WHY_NOT, run, table_of

KUBECONFIG = os.environ.get("CLUSTER_FOR_TESTS", "")

# Everything that can be there at the same time, with each of the engines.
EVERYTHING = (
    "relocation.enabled=true",
    "serviceMonitor.enabled=true",
    "alerts.enabled=true",
    "dashboard.enabled=true",
)
ENGINES = (
    "engine=webhook",
    "engine=opa",
    "engine=webhook,webhook.certificate=certManager",
    "engine=clusterPolicy",
    "engine=mutatingPolicy",
)
DEFINITIONS = (
    "clusterpolicies.kyverno.io",
    "mutatingpolicies.policies.kyverno.io",
    "certificates.cert-manager.io",
    "prometheusrules.monitoring.coreos.com",
)

# What the cluster makes by itself of what was installed.
FOLLOWS = ("events", "endpoints", "endpointslices", "replicasets", "controllerrevisions", "pods")


@unittest.skipUnless(KUBECONFIG, "CLUSTER_FOR_TESTS names no kubeconfig")
@unittest.skipUnless(AVAILABLE, WHY_NOT)
@unittest.skipUnless(shutil.which("kubectl"), "the kubectl command is not on PATH")
class ClusterTest(unittest.TestCase):
    def setUp(self) -> None:
        self.enterContext(mock.patch.dict(os.environ, KUBECONFIG=KUBECONFIG))
        for definition in DEFINITIONS:
            if not self.kubectl("get", "--ignore-not-found", "crd", definition):
                self.skipTest(f"the cluster has no {definition}")
        # No other test, and nobody else, has this namespace, or this name.
        self.name = f"test-{secrets.token_hex(4)}"
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.kubectl("create", "namespace", self.name)
        self.kubectl(
            "label", "namespace", self.name, "pod-security.kubernetes.io/enforce=restricted"
        )
        self.addCleanup(self.kubectl, "delete", "namespace", self.name, "--wait=false")

    def kubectl(self, *arguments: str) -> str:
        return run("kubectl", *arguments)

    def helm(self, *arguments: str) -> str:
        return run("helm", *arguments, "--namespace", self.name)

    def install(self, *values: str, table: str = "exampleTable=true") -> None:
        """Installs the chart, or changes what is installed; a table may be `@FILE`."""
        self.addCleanup(self.helm, "uninstall", self.name, "--ignore-not-found")
        if table.startswith("@"):
            arguments = ["--set-file", f"subnets={table[1:]}"]
        else:
            arguments = ["--set", table]
        arguments += [f"--set={each}" for each in (f"fullnameOverride={self.name}", *values)]
        self.helm("upgrade", "--install", self.name, str(CHART), *arguments)

    def versions(self) -> dict[str, str]:
        """The resourceVersion of each object of the release."""
        objects = self.helm("get", "manifest", self.name)
        text = run("kubectl", "-n", self.name, "get", "-f-", "-ojson", text=objects)
        return {
            f"{each['kind']} {each['metadata']['name']}": each["metadata"]["resourceVersion"]
            for each in json.loads(text)["items"]
        }

    def left(self) -> set[str]:
        """The names of all objects that are called like the test, or are in its namespace."""
        kinds = self.kubectl("api-resources", "--verbs=list", "-oname").split()
        kinds = [each for each in kinds if each.partition(".")[0] not in FOLLOWS]
        found = self.kubectl("get", ",".join(kinds), "-A", "--ignore-not-found", "-oname").split()
        return {each for each in found if self.name in each}

    def test_an_upgrade_without_a_change_changes_nothing(self) -> None:
        for engine in ENGINES:
            with self.subTest(engine):
                self.install(*EVERYTHING, engine)
                before = self.versions()
                self.install(*EVERYTHING, engine)
                self.assertEqual(self.versions(), before)

    def test_what_is_not_asked_for_any_more_goes(self) -> None:
        self.install("engine=none")
        before = self.left()
        for engine in ENGINES:
            self.install(*EVERYTHING, engine)
            self.assertGreater(self.left(), before)
        self.install("engine=none")
        self.assertEqual(
            {each for each in self.left() if "sh.helm" not in each},
            {each for each in before if "sh.helm" not in each},
        )
        self.helm("uninstall", self.name)
        self.assertEqual(self.left(), {f"namespace/{self.name}"})

    def get(self, kind: str, name: str = "") -> Any:
        return json.loads(
            self.kubectl("-n", self.name, "get", *filter(None, (kind, name)), "-ojson")
        )

    def test_a_certificate_stays_until_its_name_changes(self) -> None:
        self.install("engine=webhook")
        before = self.get("secret", f"{self.name}-tls")["data"]
        self.install("engine=webhook", "settings.logLevel=DEBUG")
        self.assertEqual(self.get("secret", f"{self.name}-tls")["data"], before)
        self.install("engine=opa")
        self.assertNotEqual(self.get("secret", f"{self.name}-opa-tls")["data"], before)

    def test_a_rollback_brings_the_table_back(self) -> None:
        self.install("engine=none")
        good = self.table()
        (wrong := self.folder / "wrong.json").write_text("no table")
        self.install("engine=none", table=f"@{wrong}")
        self.assertEqual(self.table(), "no table")
        self.helm("rollback", self.name)
        self.assertEqual(self.table(), good)

    def table(self) -> Any:
        return self.get("configmap", f"{self.name}-subnets")["data"]["subnets.json"]

    def test_the_pods_are_admitted_and_no_others(self) -> None:
        """The namespace enforces the restricted profile."""
        self.install("relocation.enabled=true", "engine=opa", table="awsSubnets.enabled=true")
        deployments, cron_jobs = (self.get(kind)["items"] for kind in ("deployments", "cronjobs"))
        jobs = [each["spec"]["jobTemplate"] for each in cron_jobs]
        self.assertEqual((len(deployments), len(jobs)), (3, 1))
        for each in deployments + jobs:
            self.check_admission(each["spec"]["template"]["spec"])

    def check_admission(self, spec: Any) -> None:
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "probe"}, "spec": spec}
        create = ("kubectl", "-n", self.name, "create", "--dry-run=server", "-f-")
        run(*create, text=json.dumps(pod))
        spec["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
        with self.assertRaisesRegex(AssertionError, "violates PodSecurity"):
            run(*create, text=json.dumps(pod))

    def test_the_job_writes_its_table_and_nothing_else(self) -> None:
        """With the rights of its ServiceAccount; and it is there still after an upgrade."""
        self.install("engine=none", table="awsSubnets.enabled=true")
        name = f"{self.name}-gathered"
        table = table_of(20_000)
        with self.job() as environment:
            environment["CONFIG_MAP"] = name
            self.assertEqual(self.publish(table, environment), 0)
            self.assertEqual(self.publish(table[:1000] + "]", environment), 1)
            environment["CONFIG_MAP"] = "kube-root-ca.crt"
            self.assertEqual(self.publish(table, environment), 1)
        before = self.get("configmap", name)
        self.install("engine=none", "relocation.enabled=true", table="awsSubnets.enabled=true")
        self.assertEqual(self.get("configmap", name), before)
        stored = gzip.decompress(base64.b64decode(before["binaryData"]["subnets.json"]))
        self.assertEqual(len(parse(stored.decode())), 20_000)
        reasons = [each["reason"] for each in self.get("events")["items"]]
        self.assertEqual(sorted(reasons)[-2:], ["TableChanged", "TableRefused"])

    @contextmanager
    def job(self) -> Iterator[dict[str, str]]:
        """The environment of the job's second half, outside the cluster."""
        account = f"system:serviceaccount:{self.name}:{self.name}-subnets"
        command = ["kubectl", "proxy", "--port=0", f"--as={account}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as proxy:
            try:
                assert proxy.stdout
                address = proxy.stdout.readline().rpartition(" ")[2].strip()
                yield {"KUBERNETES_URL": f"http://{address}", "NAMESPACE": self.name}
            finally:
                proxy.kill()

    def publish(self, table: str, environment: dict[str, str]) -> int:
        """The exit status of the job's second half."""
        file = self.folder / "gathered.json"
        file.write_text(table)
        command = [sys.executable, str(ROOT / "publish.py"), str(file)]
        environment = {"PATH": os.environ["PATH"], **environment}
        return subprocess.run(command, env=environment, capture_output=True).returncode


if __name__ == "__main__":
    unittest.main()
