"""The component deploy/components/relocation, in an overlay of one's own."""

from __future__ import annotations

import re
import shutil
import unittest
from typing import Any

from common.kubernetes import Client, parse_url
from relocation.report import report
from relocation.settings import RelocationSettings
from tests.api_server import ApiServer, Request, api_server
from tests.manifests import EXAMPLE, NAME, Objects, choose, container, overlay, pod_spec
from tests.test_relocation import Cluster, deployment
from tests.test_relocation_decision import owner, pod

COMPONENT = "deploy/components/relocation"
TEXT = (EXAMPLE / "kustomization.yaml").read_text()

# A path of the API: its group, its resource with the subresource. Of a list, of an object, and of
# what is created.
PATH = re.compile(r"/apis?(?:/([\w.]+))?/v1(?:/namespaces/\w+)?/(\w+)(?:/([\w-]+))?(?:/(\w+))?")

Right = tuple[str, str, str]


def right(request: Request) -> Right:
    """The group, the resource and the verb for which the request needs a role."""
    match = PATH.fullmatch(request.path)
    assert match, request.path
    group, resource, name, subresource = match.groups()
    verb = {"POST": "create", "GET": "get" if name else "list"}[request.method]
    return group or "", f"{resource}/{subresource}" if subresource else resource, verb


def rights(role: Any) -> set[Right]:
    """What a ClusterRole allows."""
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


def spec(objects: Objects) -> Any:
    """The specification of relocation's Pod."""
    return objects["Deployment relocation"]["spec"]["template"]["spec"]


@unittest.skipUnless(shutil.which("kubectl"), "the kubectl command is not on PATH")
class ComponentTest(unittest.TestCase):
    def setUp(self) -> None:
        self.overlay = overlay(self)
        self.objects = self.overlay.render(components=(COMPONENT,))
        (self.container,) = spec(self.objects)["containers"]

    def test_it_runs_the_service_s_code_in_the_service_s_image(self) -> None:
        self.assertEqual(self.container["image"], container(self.objects)["image"])
        self.assertEqual(self.container["command"], ["python", "/app/relocate.py"])
        (code,) = spec(self.objects)["volumes"]
        self.assertIn(code, pod_spec(self.objects)["volumes"])
        (mount,) = self.container["volumeMounts"]
        self.assertIn(mount, container(self.objects)["volumeMounts"])

    def test_the_pod_is_restricted_as_the_service_s_are(self) -> None:
        for key in ("securityContext", "enableServiceLinks"):
            self.assertEqual(spec(self.objects)[key], pod_spec(self.objects)[key])
        for key in ("securityContext", "ports", "livenessProbe", "envFrom"):
            self.assertEqual(self.container[key], container(self.objects)[key])
        self.assertIn("memory", self.container["resources"]["limits"])

    def test_there_is_one_at_a_time(self) -> None:
        deployed = self.objects["Deployment relocation"]["spec"]
        self.assertEqual((deployed["replicas"], deployed["strategy"]), (1, {"type": "Recreate"}))

    def test_the_settings_are_known(self) -> None:
        environment = {each["name"]: each["value"] for each in self.container["env"]}
        self.assertEqual(list(RelocationSettings.misspelt(environment)), [])
        url = environment["LOOKUP_URL"].replace("$(LOOKUP_SERVICE)", environment["LOOKUP_SERVICE"])
        self.assertEqual(url, RelocationSettings.from_environment({}).lookup_url)

    def test_the_roles_are_exactly_what_is_used(self) -> None:
        reading = rights(self.objects[f"ClusterRole {NAME}-report"])
        acting = rights(self.objects[f"ClusterRole {NAME}-relocation"])
        with api_server() as server:
            cluster = self.cluster(server)
            report(Client(parse_url(server.url)), cluster.settings(), "", {})
            self.assertEqual(asked(server), reading)
            cluster.relocator().round()
            self.assertEqual(asked(server), reading | acting)

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

    def test_the_service_account_has_the_roles(self) -> None:
        account = self.objects["ServiceAccount relocation"]
        self.assertEqual(spec(self.objects)["serviceAccountName"], account["metadata"]["name"])
        self.assertTrue(spec(self.objects)["automountServiceAccountToken"])
        self.assertFalse(account["automountServiceAccountToken"])
        self.assert_bound(self.objects, "", NAME)

    def assert_bound(self, objects: Objects, prefix: str, namespace: str) -> None:
        bindings = [each for key, each in objects.items() if key.startswith("ClusterRoleBinding ")]
        roles = {each["roleRef"]["name"] for each in bindings}
        self.assertEqual(roles, {f"{prefix}{NAME}-report", f"{prefix}{NAME}-relocation"})
        self.assertLessEqual({f"ClusterRole {role}" for role in roles}, objects.keys())
        subject = {"kind": "ServiceAccount", "name": f"{prefix}relocation", "namespace": namespace}
        for binding in bindings:
            self.assertEqual(binding["subjects"], [subject])

    def test_every_selector_selects_its_pods(self) -> None:
        relocation = self.objects["Deployment relocation"]["spec"]
        labels = relocation["template"]["metadata"]["labels"].items()
        lookup = self.objects["Deployment"]["spec"]["template"]["metadata"]["labels"].items()
        policy = self.objects["NetworkPolicy relocation"]["spec"]
        to_lookup = self.objects["NetworkPolicy relocation-to-lookup"]["spec"]
        (source,) = to_lookup["ingress"][0]["from"]
        (target,) = policy["egress"][2]["to"]
        for selector in (
            relocation["selector"]["matchLabels"],
            self.objects["Service relocation"]["spec"]["selector"],
            policy["podSelector"]["matchLabels"],
            source["podSelector"]["matchLabels"],
        ):
            self.assertLessEqual(selector.items(), labels)
            self.assertFalse(selector.items() <= lookup)
        for selector in (to_lookup["podSelector"], target["podSelector"]):
            self.assertLessEqual(selector["matchLabels"].items(), lookup)
            self.assertFalse(selector["matchLabels"].items() <= labels)

    def test_the_service_monitor_selects_both_services(self) -> None:
        components = (COMPONENT, "deploy/components/servicemonitor")
        objects = self.overlay.render(components=components)
        monitor = objects["ServiceMonitor"]["spec"]
        for service in ("Service", "Service relocation"):
            with self.subTest(service):
                labels = objects[service]["metadata"]["labels"]
                self.assertLessEqual(monitor["selector"]["matchLabels"].items(), labels.items())
                (port,) = objects[service]["spec"]["ports"]
                self.assertEqual(port["name"], monitor["endpoints"][0]["port"])

    def test_another_namespace_and_a_prefix(self) -> None:
        text = TEXT.replace(f"namespace: {NAME}\n", "namespace: other\nnamePrefix: my-\n")
        objects = self.overlay.render(text=text, components=(COMPONENT,))
        self.assert_bound(objects, "my-", "other")
        (moved,) = objects["Deployment my-relocation"]["spec"]["template"]["spec"]["containers"]
        environment = {each["name"]: each["value"] for each in moved["env"]}
        self.assertEqual(environment["LOOKUP_SERVICE"], objects["Service"]["metadata"]["name"])
        self.assertEqual(moved["envFrom"], container(objects)["envFrom"])
        for key, each in objects.items():
            if "relocation" in key and not key.startswith("ClusterRole"):
                self.assertEqual(each["metadata"]["namespace"], "other", key)

    def test_an_image_of_one_s_own(self) -> None:
        objects = self.overlay.render(components=(COMPONENT, "deploy/components/image"))
        (own,) = spec(objects)["containers"]
        self.assertEqual(own["image"], container(objects)["image"])
        self.assertEqual(own["command"], ["python", "/app/relocate.py"])
        self.assertFalse(own.get("volumeMounts") or spec(objects).get("volumes"))

    def test_the_example_names_it_before_the_image(self) -> None:
        self.assertLess(TEXT.index(f"//{COMPONENT}?"), TEXT.index("//deploy/components/image?"))

    def test_openshift(self) -> None:
        text = choose(TEXT, "runAsUser", "port: 5353")
        objects = self.overlay.render(text=text, components=(COMPONENT,))
        self.assertEqual(spec(objects)["securityContext"], pod_spec(objects)["securityContext"])
        (dns, *_) = objects["NetworkPolicy relocation"]["spec"]["egress"]
        self.assertEqual([each["port"] for each in dns["ports"]], [53, 53, 5353, 5353])


if __name__ == "__main__":
    unittest.main()
