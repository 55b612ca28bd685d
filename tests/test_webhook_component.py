"""The components with the webhook: everything in them fits together, whatever an overlay calls it."""

from __future__ import annotations

import shutil
import unittest
from pathlib import PurePath
from typing import Any

from tests.manifests import (
    EXAMPLE,
    NAME,
    POLICIES,
    Objects,
    container,
    overlay,
    pod_spec,
    settings,
)
from webhook.handler import ENDPOINTS

TEXT = (EXAMPLE / "kustomization.yaml").read_text()
COMPONENT = "deploy/components/webhook"
OWN_CERTIFICATE = "deploy/components/webhook-own-certificate"
CONFIGURATION, CERTIFICATE, ISSUER = "MutatingWebhookConfiguration", "Certificate", "Issuer"

# By the names of the overlay: the Service's name and its namespace.
NAMES = {
    f"namespace: {NAME}\n": (NAME, NAME),
    "namespace: zones\n": (NAME, "zones"),
    "namespace: zones\nnamePrefix: my-\nnameSuffix: -too\n": (f"my-{NAME}-too", "zones"),
}


def volume(name: str, objects: Objects) -> Any:
    (found,) = (each for each in pod_spec(objects)["volumes"] if each["name"] == name)
    return found


def named(ports: Any, name: str) -> Any:
    (found,) = (each for each in ports if each["name"] == name)
    return found


@unittest.skipUnless(shutil.which("kubectl"), "the kubectl command is not on PATH")
class WebhookComponentTest(unittest.TestCase):
    def render(self, names: str = f"namespace: {NAME}\n", component: str = COMPONENT) -> Objects:
        text = TEXT.replace(f"namespace: {NAME}\n", names, 1)
        return overlay(self).render(text=text, components=(component,))

    def webhook(self, objects: Objects, name: str = NAME) -> Any:
        (webhook,) = objects[f"{CONFIGURATION} {name}"]["webhooks"]
        return webhook

    def test_it_is_called_by_the_names_of_the_service(self) -> None:
        for component in (COMPONENT, OWN_CERTIFICATE):
            for names, (name, namespace) in NAMES.items():
                with self.subTest(names, component=component):
                    webhook = self.webhook(self.render(names, component), name)
                    called = webhook["clientConfig"]["service"]
                    self.assertEqual((called["name"], called["namespace"]), (name, namespace))
                    (selector,) = webhook["namespaceSelector"]["matchExpressions"]
                    self.assertEqual(selector["operator"], "NotIn")
                    self.assertEqual(selector["values"], ["kube-system", namespace])

    def test_the_certificate_is_for_that_name(self) -> None:
        for names, (name, namespace) in NAMES.items():
            with self.subTest(names):
                objects = self.render(names)
                certificate = objects[f"{CERTIFICATE} {name}"]
                self.assertEqual(certificate["spec"]["dnsNames"], [f"{name}.{namespace}.svc"])
                self.assertNotIn("isCA", certificate["spec"])
                injected = objects[f"{CONFIGURATION} {name}"]["metadata"]["annotations"]
                self.assertEqual(injected["cert-manager.io/inject-ca-from"], f"{namespace}/{name}")

    def test_it_is_signed_by_the_root(self) -> None:
        for names, (name, namespace) in NAMES.items():
            with self.subTest(names):
                objects = self.render(names)
                root, authority = (name.replace(NAME, f"{NAME}-{each}") for each in ("root", "ca"))
                signs = [(f"{ISSUER} {name}", f"{CERTIFICATE} {name}")]
                signs.append((f"{ISSUER} {root}", f"{CERTIFICATE} {authority}"))
                for issuer, certificate in signs:
                    used = objects[certificate]["spec"]["issuerRef"]["name"]
                    self.assertEqual(used, objects[issuer]["metadata"]["name"])
                    for each in (issuer, certificate):
                        self.assertEqual(objects[each]["metadata"]["namespace"], namespace)
                spec = objects[f"{CERTIFICATE} {authority}"]["spec"]
                self.assertTrue(spec["isCA"])
                self.assertEqual(objects[f"{ISSUER} {root}"]["spec"], {"selfSigned": {}})
                secret = {"secretName": spec["secretName"]}
                self.assertEqual(objects[f"{ISSUER} {name}"]["spec"], {"ca": secret})

    def test_a_renewal_leaves_no_gap(self) -> None:
        """What vouches for the certificate is there for years, and keeps its key."""
        root = self.render()[f"{CERTIFICATE} {NAME}-ca"]["spec"]
        self.assertEqual(root["privateKey"]["rotationPolicy"], "Never")
        self.assertGreaterEqual(int(root["duration"].removesuffix("h")), 5 * 365 * 24)

    def test_the_service_reads_the_certificate(self) -> None:
        objects = self.render()
        (mount,) = (each for each in container(objects)["volumeMounts"] if each["name"] == "tls")
        secret = volume("tls", objects)["secret"]["secretName"]
        self.assertEqual(secret, objects[f"{CERTIFICATE} {NAME}"]["spec"]["secretName"])
        self.assertTrue(mount["readOnly"])
        for name, file in (("TLS_CERT_FILE", "tls.crt"), ("TLS_KEY_FILE", "tls.key")):
            self.assertEqual(settings(objects)[name], str(PurePath(mount["mountPath"], file)))

    def test_ports_meet(self) -> None:
        objects = self.render()
        port = named(container(objects)["ports"], "webhook")
        self.assertEqual(port["containerPort"], 8443)
        service = named(objects["Service"]["spec"]["ports"], "webhook")
        self.assertEqual((service["port"], service["targetPort"]), (443, "webhook"))
        called = self.webhook(objects)["clientConfig"]["service"]
        self.assertEqual((called["port"], called["path"]), (443, "/mutate"))
        self.assertIn(called["path"], ENDPOINTS)
        self.assertEqual(
            objects["NetworkPolicy"]["spec"]["ingress"][1:],
            [{"ports": [{"port": "webhook", "protocol": "TCP"}]}],
        )
        probe = container(objects)["readinessProbe"]["httpGet"]
        self.assertEqual(probe, {"path": "/readyz", "port": "webhook", "scheme": "HTTPS"})
        self.assertIn(probe["path"], ENDPOINTS)

    def test_it_can_never_cost_a_pod(self) -> None:
        webhook = self.webhook(self.render())
        self.assertEqual(webhook["failurePolicy"], "Ignore")
        self.assertEqual(webhook["timeoutSeconds"], 3)
        self.assertEqual(webhook["sideEffects"], "None")
        self.assertEqual(webhook["reinvocationPolicy"], "IfNeeded")
        self.assertEqual(webhook["admissionReviewVersions"], ["v1"])
        (rule,) = webhook["rules"]
        self.assertEqual((rule["operations"], rule["resources"]), (["CREATE"], ["pods"]))

    def test_who_is_left_alone_is_left_alone_by_the_policy_too(self) -> None:
        policy = overlay(self).render(components=("kyverno/mutatingpolicy",))["MutatingPolicy"]
        conditions = self.webhook(self.render())["matchConditions"]
        self.assertEqual(conditions, policy["spec"]["matchConditions"])

    def test_there_is_no_policy_besides(self) -> None:
        for component in (COMPONENT, OWN_CERTIFICATE):
            with self.subTest(component):
                self.assertEqual(POLICIES & self.render(component=component).keys(), set())

    def test_with_a_certificate_of_one_s_own_there_is_nothing_of_cert_manager(self) -> None:
        objects, issued = self.render(component=OWN_CERTIFICATE), self.render()
        self.assertNotIn("cert-manager.io", str(objects))
        certificates = [f"{CERTIFICATE} {NAME}", f"{CERTIFICATE} {NAME}-ca"]
        issuers = [f"{ISSUER} {NAME}", f"{ISSUER} {NAME}-root"]
        self.assertEqual(issued.keys() - objects.keys(), {*certificates, *issuers})
        for kind in objects.keys() - {f"{CONFIGURATION} {NAME}"}:
            self.assertEqual(objects[kind], issued[kind])
        self.assertEqual(self.webhook(objects), self.webhook(issued))


if __name__ == "__main__":
    unittest.main()
