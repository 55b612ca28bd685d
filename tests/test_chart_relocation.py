"""What the chart installs for relocation, and that its rights are those that are used."""

from __future__ import annotations

import re
import unittest
from typing import Any

from common.kubernetes import Client, parse_url
from relocation.report import report
from relocation.settings import LEASE, RelocationSettings
from tests.api_server import ApiServer, Request, api_server
from tests.chart import AVAILABLE, NAME, WHY_NOT, Objects, environment, named, render
from tests.test_relocation import Cluster, deployment
from tests.test_relocation_decision import owner, pod

# A path of the API: its group, its resource with the subresource. Of a list, of an object, and of
# what is created.
PATH = re.compile(r"/apis?(?:/([\w.]+))?/v1(?:/namespaces/\w+)?/(\w+)(?:/([\w-]+))?(?:/(\w+))?")

Right = tuple[str, str, str]


def right(request: Request) -> Right:
    """The group, the resource and the verb for which the request needs a role."""
    match = PATH.fullmatch(request.path)
    assert match, request.path
    group, resource, name, subresource = match.groups()
    reading = "get" if name else "list"
    verb = {"POST": "create", "PUT": "update", "GET": reading}[request.method]
    return group or "", f"{resource}/{subresource}" if subresource else resource, verb


def rights(role: Any) -> set[Right]:
    """What a role allows."""
    return {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def asked(server: ApiServer) -> set[Right]:
    """What the API server was asked, without the lookups, which it answers here too."""
    return {right(each) for each in server.requests if each.path != "/lookup"}


@unittest.skipUnless(AVAILABLE, WHY_NOT)
class RelocationChartTest(unittest.TestCase):
    def setUp(self) -> None:
        self.objects = render("relocation.enabled=true")
        self.spec = self.objects.pod("relocation")
        self.container = self.objects.container("relocation")

    def test_it_runs_in_the_service_s_image(self) -> None:
        self.assertEqual(self.container["image"], self.objects.container()["image"])
        self.assertEqual(self.container["workingDir"], "/app")
        for key in ("securityContext", "livenessProbe"):
            self.assertEqual(self.container[key], self.objects.container()[key])
        self.assertIn(named(self.container["ports"], "http"), self.objects.container()["ports"])

    def test_the_settings_are_known(self) -> None:
        objects = render("relocation.enabled=true", "settings.nodeLabel=topology.k8s.aws/zone-id")
        variables = environment(objects.container("relocation"))
        self.assertEqual(list(RelocationSettings.misspelt(variables)), [])
        settings = RelocationSettings.from_environment(variables)
        self.assertEqual(settings.node_label, "topology.k8s.aws/zone-id")
        self.assertEqual(settings.lookup_url, f"http://{NAME}.{NAME}.svc:8080/lookup")

    def test_the_roles_are_exactly_what_is_used(self) -> None:
        reading = rights(self.objects["ClusterRole", f"{NAME}-report"])
        acting = rights(self.objects["ClusterRole", f"{NAME}-relocation"])
        leading = rights(self.objects["Role", f"{NAME}-relocation"])
        with api_server() as server:
            cluster = self.cluster(server)
            report(Client(parse_url(server.url)), cluster.settings(), "", {})
            self.assertEqual(asked(server), reading)
            cluster.relocator().round()
            self.assertEqual(asked(server), reading | acting | leading)

    def cluster(self, server: ApiServer) -> Cluster:
        """Everything that relocation reads is in it: each kind of workload, and a claim."""
        claim = {"name": "data", "persistentVolumeClaim": {"claimName": "data"}}
        pods = [
            pod(kind, metadata={"ownerReferences": owner(kind, kind.lower())})
            for kind in ("Deployment", "ReplicaSet", "StatefulSet")
        ]
        cluster = Cluster(server, *pods, pod("x", spec={"volumes": [claim]}))
        for kind in ("deployment", "replicaset", "statefulset"):
            server.objects[f"/apis/apps/v1/namespaces/shop/{kind}s/{kind}"] = deployment(1)
        return cluster

    def test_the_lease_is_the_one_that_it_may_change(self) -> None:
        create, change = self.objects["Role", f"{NAME}-relocation"]["rules"]
        self.assertEqual((create["resources"], create["verbs"]), (["leases"], ["create"]))
        self.assertEqual((change["resources"], change["verbs"]), (["leases"], ["get", "update"]))
        self.assertEqual(change["resourceNames"], [LEASE])

    def test_the_service_account_has_the_roles(self) -> None:
        for values, options, name, namespace in (
            ((), {}, NAME, NAME),
            (("fullnameOverride=my",), {"namespace": "other"}, "my", "other"),
        ):
            with self.subTest(name):
                objects = render("relocation.enabled=true", *values, **options)
                account = objects.one("ServiceAccount")["metadata"]["name"]
                self.assertEqual(account, f"{name}-relocation")
                self.assertEqual(objects.pod("relocation")["serviceAccountName"], account)
                subject = {"kind": "ServiceAccount", "name": account, "namespace": namespace}
                self.assert_bound(objects, subject)

    def assert_bound(self, objects: Objects, subject: Any) -> None:
        """Every role there is is bound to it."""
        for kind in ("Role", "ClusterRole"):
            bindings = objects.of(f"{kind}Binding").values()
            self.assertEqual({each["roleRef"]["name"] for each in bindings}, set(objects.of(kind)))
            for each in bindings:
                self.assertEqual(each["roleRef"]["kind"], kind)
                self.assertEqual(each["subjects"], [subject])


if __name__ == "__main__":
    unittest.main()
