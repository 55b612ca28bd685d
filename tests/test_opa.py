"""The Rego policy in the `opa` command: with mocked answers, and with the real service's."""

from __future__ import annotations

import base64
import copy
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
import unittest
from collections.abc import Iterable
from contextlib import closing, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, ClassVar

from tests.manifests import NAME, run
from tests.pods import FOLDER, PATIENCE, ROOT, SETTINGS, Service, names_asked_for, refusal

OPA = ROOT / "deploy" / "opa"
FILES = ROOT / "deploy" / "files" / "opa"
POLICIES = [FILES / "authorization.rego", FILES / f"{NAME}.rego"]
REVIEW = "/v0/data/kubernetes/automatic-zone-placement/review"

# What others might like to do with an OPA that they can reach.
FORBIDDEN = [
    ("GET", "/v1/policies"),
    ("PUT", "/v1/policies/mine"),
    ("GET", "/v1/data"),
    ("PATCH", "/v1/data"),
    ("POST", "/v1/data/kubernetes/automatic-zone-placement/review"),
    ("POST", "/v1/query"),
    ("GET", "/v1/config"),
    ("POST", "/health"),
    ("GET", REVIEW),
    ("POST", "/"),
]

Object = dict[str, Any]


def evaluated(query: str, given: object) -> Any:
    """What `query` makes of `given`, its input."""
    command = ["opa", "eval", "--stdin-input", "--format", "raw", query]
    return json.loads(run(*command, text=json.dumps(given)))


def documents(path: Path) -> list[Object]:
    """The YAML documents in a file."""
    texts = ("\n" + path.read_text()).split("\n---\n")
    return list(evaluated("[yaml.unmarshal(input[i]) | some i, _ in input]", texts))


def pods_in(path: Path) -> dict[str, Object]:
    """The Pods in a file, by name."""
    return {pod["metadata"]["name"]: pod for pod in documents(path)}


def with_added(pod: Object, patch: Iterable[Object]) -> Object:
    """The Pod after a JSON patch (RFC 6902) that does nothing but add members to objects."""
    pod = copy.deepcopy(pod)
    for operation in patch:
        assert operation.keys() == {"op", "path", "value"} and operation["op"] == "add", operation
        target = pod
        _, *parents, member = operation["path"].split("/")
        for parent in parents:
            target = target[parent]
        target[member] = operation["value"]
    return pod


class UnixConnection(HTTPConnection):
    """HTTP over a socket in the file system, for which namespaces of the network are one."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost")
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(str(self.path))


class Engine:
    """OPA's server, beside the lookup service."""

    def __init__(self, folder: Path, service: Service) -> None:
        self.socket = folder / "opa.sock"
        self.log = folder / "opa.log"
        options = ["--server", "--authorization=basic", "--skip-version-check"]
        command = service.beside("opa", "run", *options, f"--addr=unix://{self.socket}", *POLICIES)
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def __enter__(self) -> Engine:
        deadline = time.monotonic() + PATIENCE
        while not self.is_alive():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"no OPA: {self.log.read_text()}")
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(PATIENCE)
        self.socket.unlink(missing_ok=True)

    def is_alive(self) -> bool:
        with suppress(OSError):
            return self.request("GET", "/health")[0] == 200
        return False

    def request(self, method: str, path: str, body: object = None) -> tuple[int, bytes]:
        """The status and the body of the answer."""
        text = json.dumps(body) if body else None
        with closing(UnixConnection(self.socket)) as connection:
            connection.request(method, path, text, {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, response.read()

    def reviewed(self, pod: Object) -> Object:
        """The Pod as the API server would make it of OPA's answer, whose form is checked too."""
        request = {"uid": "705ab4f5", "operation": "CREATE", "object": pod}
        form = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}
        _, answer = self.request("POST", f"{REVIEW}?timeout=3s", form | {"request": request})
        review = json.loads(answer)
        response = review.pop("response")
        encoded = response.pop("patch", None)
        patch = json.loads(base64.b64decode(encoded)) if encoded else []
        assert review == form, review
        expected = {"uid": "705ab4f5", "allowed": True}
        assert response == expected | ({"patchType": "JSONPatch"} if patch else {}), response
        return with_added(pod, patch)


@unittest.skipUnless(shutil.which("opa"), "the opa command is not on PATH")
class OpaTest(unittest.TestCase):
    folder: ClassVar[Path]

    @classmethod
    def setUpClass(cls) -> None:
        cls.folder = Path(cls.enterClassContext(tempfile.TemporaryDirectory()))

    def run_opa(self, *arguments: str) -> None:
        run("opa", *arguments, *map(str, sorted(FILES.glob("*.rego"))))

    def test_its_form(self) -> None:
        self.run_opa("check", "--strict")
        self.run_opa("fmt", "--list", "--fail")

    def test_mocked_answers(self) -> None:
        self.run_opa("test")

    def test_real_answers(self) -> None:
        if reason := refusal(self.folder):
            self.skipTest(reason)
        for pods, settings in SETTINGS.items():
            with self.subTest(pods=pods):
                self.check(FOLDER / f"{pods}.yaml", FOLDER / f"{pods}.patched.yaml", settings)

    def check(self, given: Path, patched: Path, settings: dict[str, str]) -> None:
        expected = pods_in(given) | pods_in(patched)
        with Service(self.folder, settings) as service, Engine(self.folder, service) as engine:
            for name, pod in pods_in(given).items():
                self.assertEqual(engine.reviewed(pod), expected[name], name)
            # An API server calls a webhook again when a later one has changed the Pod.
            for name, pod in pods_in(patched).items():
                self.assertEqual(engine.reviewed(pod), pod, name)
        self.assertEqual(service.asked(), names_asked_for(given))

    def test_without_the_service(self) -> None:
        if reason := refusal(self.folder):
            self.skipTest(reason)
        pod = pods_in(FOLDER / "pods.yaml")["required-patched"]
        with Service(self.folder, {}) as service, Engine(self.folder, service) as engine:
            self.assertNotEqual(engine.reviewed(pod), pod)
            service.stop()
            self.assertEqual(engine.reviewed(pod), pod)

    def test_nobody_may_do_anything_else(self) -> None:
        if reason := refusal(self.folder):
            self.skipTest(reason)
        with Service(self.folder, {}) as service, Engine(self.folder, service) as engine:
            for method, path in FORBIDDEN:
                with self.subTest(method=method, path=path):
                    self.assertEqual(engine.request(method, path)[0], 401)

    def test_the_api_server_asks_about_the_same_pods_as_with_kyverno(self) -> None:
        (policy,) = documents(ROOT / "kyverno" / "mutatingpolicy" / f"{NAME}.yaml")
        (configuration,) = documents(OPA / "mutatingwebhookconfiguration.yaml")
        (webhook,) = configuration["webhooks"]
        self.assertEqual(webhook["matchConditions"], policy["spec"]["matchConditions"])
        self.assertEqual(webhook["clientConfig"]["service"]["path"], REVIEW)
        for segment in REVIEW.split("/")[1:]:  # the API server takes no others
            self.assertRegex(segment, r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")


@unittest.skipUnless(shutil.which("opa"), "the opa command is not on PATH")
@unittest.skipUnless(shutil.which("kubectl"), "the kubectl command is not on PATH")
class ComponentTest(unittest.TestCase):
    """What the component adds to the lookup service."""

    objects: ClassVar[dict[tuple[str, str], Object]]

    @classmethod
    def setUpClass(cls) -> None:
        with tempfile.TemporaryDirectory() as folder:
            base, component = (
                os.path.relpath(path, Path(folder).resolve()) for path in (ROOT, OPA)
            )
            kustomization = {"resources": [base], "components": [component]}
            Path(folder, "kustomization.yaml").write_text(json.dumps(kustomization))
            rendered = run("kubectl", "kustomize", folder)
        objects = evaluated("[yaml.unmarshal(text) | some text in input]", rendered.split("---\n"))
        cls.objects = {(each["kind"], each["metadata"]["name"]): each for each in objects}

    def spec(self, kind: str, name: str = f"{NAME}-opa") -> Object:
        return dict(self.objects[kind, name]["spec"])

    def test_kyverno_does_not_do_the_same(self) -> None:
        self.assertNotIn(("ClusterPolicy", NAME), self.objects)

    def test_the_policy_is_that_of_the_folder(self) -> None:
        pod = self.spec("Deployment")["template"]["spec"]
        volumes = {each["name"]: each for each in pod["volumes"]}
        config_map = self.objects["ConfigMap", volumes["policy"]["configMap"]["name"]]
        self.assertEqual(config_map["data"], {each.name: each.read_text() for each in POLICIES})
        (container,) = pod["containers"]
        (path,) = (m["mountPath"] for m in container["volumeMounts"] if m["name"] == "policy")
        self.assertEqual(container["args"][-2:], [f"{path}/{each.name}" for each in POLICIES])

    def test_the_api_server_trusts_the_certificate(self) -> None:
        configuration = self.objects["MutatingWebhookConfiguration", f"{NAME}-opa"]
        (webhook,) = configuration["webhooks"]
        service = webhook["clientConfig"]["service"]
        certificate = self.spec("Certificate")
        self.assertEqual(certificate["dnsNames"], [f"{service['name']}.{service['namespace']}.svc"])
        self.assertEqual(
            configuration["metadata"]["annotations"]["cert-manager.io/inject-ca-from"],
            f"{NAME}/{NAME}-opa",
        )
        volumes = self.spec("Deployment")["template"]["spec"]["volumes"]
        self.assertIn(
            certificate["secretName"], [v.get("secret", {}).get("secretName") for v in volumes]
        )

    def test_the_lookup_service_lets_it_in(self) -> None:
        labels = self.spec("Deployment")["template"]["metadata"]["labels"]
        (ingress,) = self.spec("NetworkPolicy", NAME)["ingress"]
        (selector,) = (each["podSelector"] for each in ingress["from"] if "podSelector" in each)
        self.assertLessEqual(selector["matchLabels"].items(), labels.items())

    def test_its_pods_are_restricted(self) -> None:
        of_opa, of_the_service = (
            self.spec("Deployment", name)["template"]["spec"] for name in (f"{NAME}-opa", NAME)
        )
        for key in ("securityContext", "automountServiceAccountToken"):
            self.assertEqual(of_opa[key], of_the_service[key])
        self.assertEqual(
            of_opa["containers"][0]["securityContext"],
            of_the_service["containers"][0]["securityContext"],
        )


if __name__ == "__main__":
    unittest.main()
