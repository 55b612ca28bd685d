"""Both policies in the `kyverno` command: with mocked answers, and with the real service's."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path
from typing import ClassVar
from unittest import mock

from tests.pods import FOLDER, ROOT, SETTINGS, Command, Service, names_asked_for, refusal

POLICIES = sorted((ROOT / "kyverno").glob("*policy/automatic-zone-placement.yaml"))

# In the service's place: writes down who the caller says it is, and knows no name.
LISTENER = """
import http.server, os, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        print("authorization", self.headers["Authorization"], file=sys.stderr, flush=True)
        self.send_error(404)

server = http.server.HTTPServer(("", int(os.environ["PORT"])), Handler)
print("listening", file=sys.stderr, flush=True)
server.serve_forever()
"""

Pods = dict[str, str]


def applied(policy: Path, pods: Path, service: Service | None = None) -> Pods:
    """The Pods, by name, as `kyverno apply` writes them, whether it patched them or not."""
    with tempfile.TemporaryDirectory() as folder:
        command: Command = ["kyverno", "apply", policy, "--resource", pods, "--output", folder]
        command = service.beside(*command) if service else command
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if run.returncode:
            raise AssertionError(run.stdout + run.stderr)
        return {
            each.name.removesuffix("-mutated.yaml"): each.read_text()
            for each in Path(folder).iterdir()
        }


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
        files = (FOLDER / f"{pods}.yaml", FOLDER / f"{pods}.patched.yaml")
        given, patched = (applied(idle, file) for file in files)
        return given | patched

    def test_mocked_answers(self) -> None:
        command: Command = ["kyverno", "test", FOLDER, "--remove-color"]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        self.assertEqual(run.returncode, 0, run.stdout + run.stderr)
        # The command is content with a policy that is invalid, or that matches nothing.
        results = re.findall(r"-(?:patched|unplaced) +│ (\w+ +│ \w+)", run.stdout)
        self.assertEqual(set(results), {"Pass   │ Ok"}, run.stdout)

    def test_real_answers(self) -> None:
        if reason := refusal(self.folder):
            self.skipTest(reason)
        for pods, settings in SETTINGS.items():
            expected = self.expected(pods)
            for policy in POLICIES:
                with self.subTest(policy=policy.parent.name, pods=pods):
                    self.check(policy, pods, settings, expected)

    def check(self, policy: Path, pods: str, settings: dict[str, str], expected: Pods) -> None:
        given, patched = FOLDER / f"{pods}.yaml", FOLDER / f"{pods}.patched.yaml"
        with Service(self.folder, settings) as service:
            self.assertEqual(applied(policy, given, service), expected)
            # An API server calls a webhook again when a later one has changed the Pod.
            self.assertLessEqual(applied(policy, patched, service).items(), expected.items())
        self.assertEqual(service.asked(), names_asked_for(given))

    def test_kyverno_keeps_its_token_to_itself(self) -> None:
        if reason := refusal(self.folder):
            self.skipTest(reason)
        (listener := self.folder / "listener.py").write_text(LISTENER)
        (token := self.folder / "token").write_text("secret")
        for policy in POLICIES:
            with (
                self.subTest(policy=policy.parent.name),
                mock.patch.dict(os.environ, KYVERNO_SCOPED_TOKEN_PATH=str(token)),
                Service(self.folder, {}, listener) as service,
            ):
                applied(policy, FOLDER / "stale.yaml", service)
                self.assertRegex(service.log.read_text(), r"\nauthorization (None|none)\n")


if __name__ == "__main__":
    unittest.main()
