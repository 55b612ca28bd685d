"""The chart with an engine that the API server calls: everything fits together, whatever it is called."""

from __future__ import annotations

import base64
import subprocess
import tempfile
import unittest
from pathlib import Path, PurePath
from typing import Any

from tests.chart import AVAILABLE, NAME, WHY_NOT, Objects, environment, named, refusal, render
from webhook.handler import WebhookHandler

CONFIGURATION = "MutatingWebhookConfiguration"
CERT_MANAGER = ("engine=webhook", "webhook.certificate=certManager")

ROOT = "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"

# By values: the Service's name and its namespace.
NAMES: tuple[tuple[tuple[str, ...], dict[str, str], str, str], ...] = (
    ((), {}, NAME, NAME),
    (("fullnameOverride=my-too",), {"namespace": "zones"}, "my-too", "zones"),
)


def webhook(objects: Objects) -> Any:
    (found,) = objects.one(CONFIGURATION)["webhooks"]
    return found


@unittest.skipUnless(AVAILABLE, WHY_NOT)
class WebhookChartTest(unittest.TestCase):
    def test_it_is_called_by_the_names_of_the_service(self) -> None:
        for engine, ending in (("webhook", ""), ("opa", "-opa")):
            for values, options, name, namespace in NAMES:
                with self.subTest(engine, name=name):
                    objects = render(f"engine={engine}", *values, **options)
                    service = webhook(objects)["clientConfig"]["service"]
                    self.assertEqual(
                        (service["name"], service["namespace"]), (name + ending, namespace)
                    )
                    self.assertIn(("Service", service["name"]), objects)

    def test_what_it_needs_itself_does_not_wait_for_it(self) -> None:
        for engine in ("webhook", "opa"):
            objects = render(f"engine={engine}")
            (selector,) = webhook(objects)["namespaceSelector"]["matchExpressions"]
            self.assertEqual((selector["operator"], selector["values"]), ("NotIn", ["kube-system"]))
            (selector,) = webhook(objects)["objectSelector"]["matchExpressions"]
            self.assertEqual(selector["operator"], "NotIn")
            for template in objects.templates():
                labels = template["metadata"]["labels"]
                self.assertIn(labels[selector["key"]], selector["values"])

    def test_ports_meet(self) -> None:
        objects = render("engine=webhook")
        port = named(objects.container()["ports"], "webhook")
        self.assertEqual(port["containerPort"], 8443)
        service = named(objects.one("Service")["spec"]["ports"], "webhook")
        self.assertEqual((service["port"], service["targetPort"]), (443, "webhook"))
        called = webhook(objects)["clientConfig"]["service"]
        self.assertEqual((called["port"], called["path"]), (443, "/mutate"))
        self.assertIn(called["path"], WebhookHandler.endpoints)
        probe = objects.container()["readinessProbe"]["httpGet"]
        self.assertEqual(probe, {"path": "/readyz", "port": "webhook", "scheme": "HTTPS"})
        self.assertIn(probe["path"], WebhookHandler.endpoints)

    def test_it_can_never_cost_a_pod(self) -> None:
        for engine in ("webhook", "opa"):
            found = webhook(render(f"engine={engine}"))
            self.assertEqual(found["failurePolicy"], "Ignore")
            self.assertEqual(found["timeoutSeconds"], 3)
            self.assertEqual(found["sideEffects"], "None")
            self.assertEqual(found["reinvocationPolicy"], "IfNeeded")
            self.assertEqual(found["admissionReviewVersions"], ["v1"])
            (rule,) = found["rules"]
            self.assertEqual((rule["operations"], rule["resources"]), (["CREATE"], ["pods"]))

    def test_who_is_left_alone_is_left_alone_by_the_policy_too(self) -> None:
        policy = render("engine=mutatingPolicy").one("MutatingPolicy")
        for engine in ("webhook", "opa"):
            conditions = webhook(render(f"engine={engine}"))["matchConditions"]
            self.assertEqual(conditions, policy["spec"]["matchConditions"])


@unittest.skipUnless(AVAILABLE, WHY_NOT)
class CertificateTest(unittest.TestCase):
    def check_mount(self, objects: Objects, secret: str) -> None:
        """The service reads this Secret."""
        volume = named(objects.pod()["volumes"], "tls")
        items = [{"key": each, "path": each} for each in ("tls.crt", "tls.key")]
        self.assertEqual(volume["secret"], {"secretName": secret, "items": items})
        mount = named(objects.container()["volumeMounts"], "tls")
        self.assertTrue(mount["readOnly"])
        for name, file in (("TLS_CERT_FILE", "tls.crt"), ("TLS_KEY_FILE", "tls.key")):
            path = str(PurePath(mount["mountPath"], file))
            self.assertEqual(environment(objects.container())[name], path)

    def test_helm_makes_it(self) -> None:
        for engine, ending in (("webhook", ""), ("opa", "-opa")):
            for values, options, name, namespace in NAMES:
                with self.subTest(engine, name=name):
                    objects = render(f"engine={engine}", *values, **options)
                    secret = objects.one("Secret")
                    self.assertEqual(secret["type"], "kubernetes.io/tls")
                    bundle = webhook(objects)["clientConfig"]["caBundle"]
                    self.assertEqual(bundle, secret["data"]["ca.crt"])
                    self.verify(secret["data"], f"{name}{ending}.{namespace}.svc")
        self.check_mount(render("engine=webhook"), f"{NAME}-tls")

    def verify(self, data: dict[str, str], host: str) -> None:
        """The root vouches for the certificate, for this name, for years; its own key is nowhere."""
        self.assertEqual(data.keys(), {"ca.crt", "tls.crt", "tls.key"})
        folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        for name, text in data.items():
            (folder / name).write_bytes(base64.b64decode(text))
        command = ["openssl", "verify", "-CAfile", str(folder / "ca.crt"), "-verify_hostname"]
        years = str(int((folder / "ca.crt").stat().st_mtime) + 9 * 365 * 86400)
        done = subprocess.run(
            [*command, host, "-attime", years, str(folder / "tls.crt")],
            capture_output=True,
            text=True,
            check=False,
        )
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_cert_manager_makes_it(self) -> None:
        for values, options, name, namespace in NAMES:
            with self.subTest(name):
                objects = render(*CERT_MANAGER, *values, **options)
                certificate = objects["Certificate", name]
                self.assertEqual(certificate["spec"]["dnsNames"], [f"{name}.{namespace}.svc"])
                self.assertNotIn("isCA", certificate["spec"])
                injected = objects.one(CONFIGURATION)["metadata"]["annotations"]
                self.assertEqual(injected["cert-manager.io/inject-ca-from"], f"{namespace}/{name}")
                self.assertNotIn("caBundle", webhook(objects)["clientConfig"])
                self.check_mount(objects, certificate["spec"]["secretName"])

    def test_it_is_signed_by_the_root(self) -> None:
        for values, options, name, _ in NAMES:
            with self.subTest(name):
                objects = render(*CERT_MANAGER, *values, **options)
                signs = ((name, name), (f"{name}-root", f"{name}-ca"))
                for issuer, certificate in signs:
                    used = objects["Certificate", certificate]["spec"]["issuerRef"]["name"]
                    self.assertEqual(used, issuer)
                spec = objects["Certificate", f"{name}-ca"]["spec"]
                self.assertTrue(spec["isCA"])
                self.assertEqual(objects["Issuer", f"{name}-root"]["spec"], {"selfSigned": {}})
                secret = {"secretName": spec["secretName"]}
                self.assertEqual(objects["Issuer", name]["spec"], {"ca": secret})

    def test_its_secrets_go_with_the_release(self) -> None:
        """cert-manager fills what is there, and leaves what it has made behind."""
        objects = render(*CERT_MANAGER)
        named = {each["spec"]["secretName"] for each in objects.of("Certificate").values()}
        self.assertEqual(set(objects.of("Secret")), named)
        for secret in objects.of("Secret").values():
            self.assertNotIn("data", secret)

    def test_a_renewal_leaves_no_gap(self) -> None:
        """What vouches for the certificate is there for years, and keeps its key."""
        root = render(*CERT_MANAGER)["Certificate", f"{NAME}-ca"]["spec"]
        self.assertEqual(root["privateKey"]["rotationPolicy"], "Never")
        self.assertGreaterEqual(int(root["duration"].removesuffix("h")), 5 * 365 * 24)

    def test_one_s_own(self) -> None:
        own = ("webhook.certificate=secret", "webhook.secretName=mine")
        (root := Path(self.enterContext(tempfile.TemporaryDirectory()), "root")).write_text(ROOT)
        for engine in ("webhook", "opa"):
            objects = render(f"engine={engine}", *own, f"@webhook.caBundle={root}")
            self.assertFalse(objects.of("Secret") or objects.of("Certificate"))
            bundle = webhook(objects)["clientConfig"]["caBundle"]
            self.assertEqual(base64.b64decode(bundle), ROOT.encode())
        self.check_mount(render("engine=webhook", *own, f"@webhook.caBundle={root}"), "mine")
        said = refusal("--set", ",".join(("exampleTable=true", "engine=webhook", *own)))
        self.assertIn("webhook.caBundle", said)

    def test_who_is_not_called_needs_none(self) -> None:
        for engine in ("clusterPolicy", "mutatingPolicy", "none"):
            objects = render(f"engine={engine}", "webhook.certificate=certManager")
            self.assertFalse(objects.of("Secret") or objects.of("Certificate"))


if __name__ == "__main__":
    unittest.main()
