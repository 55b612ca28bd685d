"""The Pods that every engine is tested by, and the lookup service in a network that is its own.

An engine calls the service by its name in the cluster. So each test has namespaces in which
that name, and the port, are the service's: the engine's policy runs as it is.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "kyverno" / "tests"

# By file of Pods: the settings of the service that answers for them.
SETTINGS = {
    "pods": {"AVOID_ZONES": "eu-central-1c"},
    "zone-id": {"NODE_LABEL": "topology.k8s.aws/zone-id"},
    "ambiguous": {"SUBNETS_FILE": str(FOLDER / "ambiguous.subnets.json")},
}

ROOTLESS = os.geteuid() != 0
UNSHARE = ["unshare", "--net", "--mount", *(["--user", "--map-root-user"] * ROOTLESS)]
ENTER = ["nsenter", "--net", "--mount", *(["--user", "--preserve-credentials"] * ROOTLESS)]

# 192.0.2.1 is for documentation (RFC 5737); 127.0.0.1 is forbidden to the calls of a CEL policy.
HOSTS = "192.0.2.1 automatic-zone-placement.automatic-zone-placement.svc\n"
PORT = "8080"
FURNISH = """
ip link set lo up
ip address add 192.0.2.1/32 dev lo
mount --bind "$0/hosts" /etc/hosts
mount --bind "$0/nsswitch.conf" /etc/nsswitch.conf
exec "$@"
"""
# There is no DNS: without it, nothing is known of a name but what is in the hosts file.
NSSWITCH = "hosts: files\n"

PATIENCE = 30.0  # seconds

Command = list[str | Path]


def furnished(folder: Path, *command: str | Path) -> Command:
    """The command, in namespaces of its own; `folder` is for its hosts file."""
    (folder / "hosts").write_text(HOSTS + (FOLDER / "hosts").read_text())
    (folder / "nsswitch.conf").write_text(NSSWITCH)
    return [*UNSHARE, "sh", "-ec", FURNISH, folder, *command]


def refusal(folder: Path) -> str:
    """Why the system lets us have no such namespaces; empty if it does."""
    probe = furnished(folder, "true")
    run = subprocess.run(probe, capture_output=True, text=True, check=False)
    return f"no network of its own: {run.stderr.strip()}" if run.returncode else ""


def names_asked_for(pods: Path) -> list[str]:
    """Those that the service must be asked about."""
    asked = r"name: \S+-(?:patched|unplaced)\n(?: .*\n)*?    automatic-zone-placement: (.*)\n"
    return re.findall(asked, pods.read_text())


class Service:
    """The lookup service, or a program in its place, and whatever runs beside it."""

    def __init__(
        self, folder: Path, settings: dict[str, str], program: Path = ROOT / "server.py"
    ) -> None:
        self.log = folder / "log"
        environment = {"PORT": PORT, "SUBNETS_FILE": str(FOLDER / "subnets.json")} | settings
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                furnished(folder, sys.executable, program),
                env=os.environ | environment,
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
        self.stop()

    def stop(self) -> None:
        """Ends it; what runs beside it goes on."""
        self.process.terminate()
        self.process.wait(PATIENCE)

    def beside(self, *command: str | Path) -> Command:
        """The command, in the same namespaces."""
        return [*ENTER, "--target", str(self.process.pid), *command]

    def asked(self) -> list[str]:
        """What it was asked for; complete when it has ended."""
        return re.findall(r" lookup '(.*?)' ", self.log.read_text())
