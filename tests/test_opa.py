"""The Rego policy in the `opa` command: with mocked answers, and with the real service's."""

from __future__ import annotations

import base64
import copy
import json
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

from tests.chart import AVAILABLE, FILES, NAME, WHY_NOT, named, render, run
from tests.pods import FOLDER, PATIENCE, SETTINGS, Service, names_asked_for, refusal

OPA = FILES / "opa"
POLICIES = [OPA / "authorization.rego", OPA / f"{NAME}.rego"]
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
        run("opa", *arguments, *map(str, sorted(OPA.glob("*.rego"))))

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


@unittest.skipUnless(AVAILABLE, WHY_NOT)
class ChartTest(unittest.TestCase):
    """What the chart installs with this engine."""

    def setUp(self) -> None:
        self.objects = render("engine=opa")

    def test_the_policies_are_those_of_the_files_and_call_the_service(self) -> None:
        for values, options, host in (
            ((), {}, f"{NAME}.{NAME}"),
            (("fullnameOverride=my",), {"namespace": "zones"}, "my.zones"),
        ):
            with self.subTest(host):
                objects = render("engine=opa", *values, **options)
                expected = {
                    each.name: each.read_text().replace(
                        f"//{NAME}.{NAME}.svc:8080/lookup", f"//{host}.svc:8080/lookup"
                    )
                    for each in POLICIES
                }
                self.assertEqual(objects.one("ConfigMap", "-opa")["data"], expected)
                self.assertIn(f'"http://{host}.svc:8080/lookup', expected[f"{NAME}.rego"])

    def test_opa_reads_them_and_the_certificate(self) -> None:
        pod, container = self.objects.pod("opa"), self.objects.container("opa")
        policy = named(pod["volumes"], "policy")["configMap"]["name"]
        self.assertIn(("ConfigMap", policy), self.objects)
        path = named(container["volumeMounts"], "policy")["mountPath"]
        self.assertEqual(container["args"][-2:], [f"{path}/{each.name}" for each in POLICIES])
        secret = named(pod["volumes"], "certificate")["secret"]["secretName"]
        self.assertIn(("Secret", secret), self.objects)
        path = named(container["volumeMounts"], "certificate")["mountPath"]
        for option in (f"--tls-cert-file={path}/tls.crt", f"--tls-private-key-file={path}/tls.key"):
            self.assertIn(option, container["args"])

    def test_it_is_called_where_it_answers(self) -> None:
        (webhook,) = self.objects.one("MutatingWebhookConfiguration")["webhooks"]
        self.assertEqual(webhook["clientConfig"]["service"]["path"], REVIEW)
        for segment in REVIEW.split("/")[1:]:  # the API server takes no others
            self.assertRegex(segment, r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
        (port,) = self.objects["Service", f"{NAME}-opa"]["spec"]["ports"]
        (container_port,) = self.objects.container("opa")["ports"]
        self.assertEqual(port["targetPort"], container_port["name"])
        self.assertIn(
            f"--addr=:{container_port['containerPort']}", self.objects.container("opa")["args"]
        )

    def test_a_changed_policy_rolls_it(self) -> None:
        metadata = self.objects["Deployment", f"{NAME}-opa"]["spec"]["template"]["metadata"]
        other = render("engine=opa", namespace="zones")["Deployment", f"{NAME}-opa"]
        self.assertNotEqual(metadata, other["spec"]["template"]["metadata"])


if __name__ == "__main__":
    unittest.main()
