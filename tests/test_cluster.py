"""The example overlay on a real API server, which CLUSTER_FOR_TESTS names by its kubeconfig.

It needs Kyverno's custom resource definitions, but no Kyverno, and no nodes. Everything is made
in a namespace of its own, which goes when the test ends.
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
import unittest
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from tests.manifests import (
    NAME,
    ROOT,
    choose,
    config_map_of,
    job_spec,
    overlay,
    pod_spec,
    run,
    table_of,
)

KUBECONFIG = os.environ.get("CLUSTER_FOR_TESTS", "")

APPLY = ("apply", "--server-side")
DIFF = ("diff", "--server-side")

AWS_SUBNETS = "deploy/components/aws-subnets"


@unittest.skipUnless(shutil.which("kubectl"), "the kubectl command is not on PATH")
@unittest.skipUnless(KUBECONFIG, "CLUSTER_FOR_TESTS names no kubeconfig")
class ClusterTest(unittest.TestCase):
    def setUp(self) -> None:
        self.enterContext(mock.patch.dict(os.environ, KUBECONFIG=KUBECONFIG))
        self.require("clusterpolicies.kyverno.io")
        self.overlay = overlay(self)
        # No other test, and nobody else, has this namespace, or this prefix for the policy.
        self.namespace = f"test-{secrets.token_hex(4)}"
        names = f"namespace: {self.namespace}\nnamePrefix: {self.namespace}-\n"
        self.text = self.overlay.text.replace(f"namespace: {NAME}\n", names, 1)
        self.overlay.write(text=self.text)

    def require(self, definition: str) -> None:
        if not self.kubectl("get", "--ignore-not-found", "crd", definition):
            self.skipTest(f"the cluster has no {definition}")

    def kubectl(self, *arguments: str) -> str:
        return run("kubectl", *arguments)

    def kustomize(self, *verb: str) -> str:
        """Applies the overlay, or compares it with what is there."""
        if verb[0] == "apply":
            self.addCleanup(
                self.kubectl, "delete", "--ignore-not-found", "--wait=false", "-k", self.folder
            )
        return self.kubectl(*verb, "-k", self.folder)

    @property
    def folder(self) -> str:
        return str(self.overlay.folder)

    def get(self, kind: str, name: str) -> Any:
        return json.loads(
            self.kubectl("-n", self.namespace, "get", *filter(None, (kind, name)), "-ojson")
        )

    def check_no_drift(self, *components: str) -> None:
        """What was applied by the server is what is there: a second time changes nothing."""
        self.overlay.write(text=self.text, components=components)
        self.kustomize(*APPLY)
        self.assertEqual(self.kustomize(*DIFF), "")

    def check_no_drift_for_a_client(self, *components: str) -> None:
        """A client that compares by itself finds nothing that the server has added to a list."""
        self.overlay.write(text=self.text, components=components)
        self.kustomize("apply")
        again = dict(line.rsplit(" ", 1) for line in self.kustomize("apply").splitlines())
        # Its selector is replaced as a whole by every client-side apply, equal or not.
        again.pop(f"poddisruptionbudget.policy/{self.namespace}-{NAME}")
        self.assertEqual(set(again.values()), {"unchanged"}, again)
        self.assertEqual(self.kustomize("diff"), "")

    def test_no_drift(self) -> None:
        self.check_no_drift()

    def test_no_drift_for_a_client(self) -> None:
        self.check_no_drift_for_a_client()

    def test_no_drift_with_a_mutating_policy(self) -> None:
        self.require("mutatingpolicies.policies.kyverno.io")
        self.check_no_drift("kyverno/mutatingpolicy")

    def test_no_drift_with_a_mutating_policy_for_a_client(self) -> None:
        self.require("mutatingpolicies.policies.kyverno.io")
        self.check_no_drift_for_a_client("kyverno/mutatingpolicy")

    def test_no_drift_with_relocation(self) -> None:
        self.check_no_drift("deploy/components/relocation")

    def test_no_drift_with_relocation_for_a_client(self) -> None:
        self.check_no_drift_for_a_client("deploy/components/relocation")

    def test_no_drift_with_a_table_from_aws(self) -> None:
        self.check_no_drift(AWS_SUBNETS)

    def test_no_drift_with_a_table_from_aws_for_a_client(self) -> None:
        self.check_no_drift_for_a_client(AWS_SUBNETS)

    def test_the_job_writes_its_table_and_nothing_else(self) -> None:
        """With the rights of its ServiceAccount; and it is there still when all is applied again."""
        self.overlay.write(text=self.text, components=(AWS_SUBNETS,))
        self.kustomize(*APPLY)
        name = f"{self.namespace}-{NAME}-gathered"
        table = table_of(20_000)
        with self.job() as environment:
            environment["CONFIG_MAP"] = name
            self.assertEqual(self.publish(table, environment), 0)
            self.assertEqual(self.publish(table[:1000] + "]", environment), 1)
            environment["CONFIG_MAP"] = "kube-root-ca.crt"
            self.assertEqual(self.publish(table, environment), 1)
        self.kustomize(*APPLY)
        self.assertEqual(self.kustomize(*DIFF), "")
        stored = self.get("configmap", name)["binaryData"]["subnets.json"]
        self.assertEqual(gzip.decompress(base64.b64decode(stored)).decode(), table)
        reasons = [each["reason"] for each in self.get("events", "")["items"]]
        self.assertEqual(sorted(reasons)[-2:], ["TableChanged", "TableRefused"])

    @contextmanager
    def job(self) -> Iterator[dict[str, str]]:
        """The environment of the job's second half, outside the cluster."""
        account = f"system:serviceaccount:{self.namespace}:{self.namespace}-subnets"
        command = ["kubectl", "proxy", "--port=0", f"--as={account}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as proxy:
            try:
                assert proxy.stdout
                address = proxy.stdout.readline().rpartition(" ")[2].strip()
                yield {"KUBERNETES_URL": f"http://{address}", "NAMESPACE": self.namespace}
            finally:
                proxy.kill()

    def publish(self, table: str, environment: dict[str, str]) -> int:
        """The exit status of the job's second half."""
        file = self.overlay.folder / "gathered.json"
        file.write_text(table)
        command = [sys.executable, str(ROOT / "publish.py"), str(file)]
        environment = {"PATH": os.environ["PATH"], **environment}
        return subprocess.run(command, env=environment, capture_output=True).returncode

    def test_no_drift_with_the_webhook(self) -> None:
        self.require("certificates.cert-manager.io")
        self.check_no_drift("deploy/components/webhook")

    def test_no_drift_with_the_webhook_for_a_client(self) -> None:
        self.require("certificates.cert-manager.io")
        self.check_no_drift_for_a_client("deploy/components/webhook")

    def test_no_drift_with_a_webhook_with_its_own_certificate(self) -> None:
        self.check_no_drift("deploy/components/webhook-own-certificate")

    def test_from_client_side_to_server_side(self) -> None:
        self.kustomize("apply")
        self.kustomize(*APPLY)
        self.assertEqual(self.kustomize(*DIFF), "")

    def test_the_pods_are_admitted_and_no_others(self) -> None:
        """The namespace enforces the restricted profile, whatever it is called."""
        self.kustomize(*APPLY)
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "probe"}}
        spec = pod_spec(self.overlay.render(text=self.text))
        create = ("kubectl", "-n", self.namespace, "create", "--dry-run=server", "-f-")
        run(*create, text=json.dumps(pod | {"spec": spec}))
        spec["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
        with self.assertRaisesRegex(AssertionError, "violates PodSecurity"):
            run(*create, text=json.dumps(pod | {"spec": spec}))
        objects = self.overlay.render(text=self.text, components=(AWS_SUBNETS,))
        self.kustomize(*APPLY)  # which creates the ServiceAccount
        run(*create, text=json.dumps(pod | {"spec": job_spec(objects)}))

    def test_a_table_of_100_000_subnets(self) -> None:
        table = table_of(100_000).encode()
        (self.overlay.folder / "subnets.json.gz").write_bytes(gzip.compress(table))
        text = choose(self.text, "SUBNETS_FILE").replace("- subnets.json\n", "- subnets.json.gz\n")
        self.overlay.write(text=text)
        self.kustomize(*APPLY)
        spec = self.get("deployment", f"{self.namespace}-{NAME}")
        name = config_map_of("subnets", {"Deployment": spec})
        stored = self.get("configmap", name)["binaryData"]["subnets.json.gz"]
        self.assertEqual(gzip.decompress(base64.b64decode(stored)), table)
        self.assertEqual(self.kustomize(*DIFF), "")


if __name__ == "__main__":
    unittest.main()
