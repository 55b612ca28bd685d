"""What the tests of the manifests share: `kubectl kustomize`, and the example overlay outside the repository."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "deploy" / "overlay-example"
NAME = "automatic-zone-placement"
POLICIES = {"ClusterPolicy", "MutatingPolicy"}

# A base or component as the overlay names it: its folder, and its version.
REMOTE = re.compile(rf"https://github\.com/OWNER/{NAME}(?://([\w/-]+))?\?ref=v([\w.-]+)")

# An option of the overlay: a line that is commented out.
OPTION = re.compile(r"#(  +)\S")

# The host that a policy calls: in JMESPath and in CEL.
CALLED = (
    re.compile(r"join\('\.', \['([\w-]+)', '([\w-]+)', 'svc'\]\) }}:8080/lookup"),
    re.compile(r"\"http://\" \+ '([\w-]+)' \+ \".\" \+ '([\w-]+)' \+ \".svc:8080/lookup"),
)

Objects = dict[str, Any]


def run(*command: str, text: str = "") -> str:
    """What the command prints; fails the test with what it complains of."""
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(f"{' '.join(command)}: {done.stderr}")
    return done.stdout


def from_yaml(text: str) -> Any:
    """What a YAML document says."""
    head = "apiVersion: v1\nkind: Document\nmetadata:\n  name: it\nspec:\n"
    wrapped = head + "".join(f"  {line}" for line in text.splitlines(keepends=True))
    # `annotate --local` asks no cluster and writes JSON.
    command = ("kubectl", "annotate", "--local", "-f-", "-ojson", "a=b")
    return json.loads(run(*command, text=wrapped))["spec"]


def render(folder: Path) -> Objects:
    """The objects of a kustomization, by kind; of ConfigMaps, by kind and first key if there is one.

    Those that belong to a component of their own are found by kind and name.
    """
    # kustomize writes YAML only; `annotate --local` asks no cluster and writes JSON.
    text = run("kubectl", "kustomize", str(folder))
    rest = run("kubectl", "annotate", "--local", "-f-", "-ojson", "a=b", text=text).strip()
    objects: Objects = {}
    while rest:
        each, end = json.JSONDecoder().raw_decode(rest)
        rest = rest[end:].strip()
        key = _key(each)
        assert key not in objects, f"two of {key}"
        objects[key] = each
    return objects


def _key(each: Any) -> str:
    kind, metadata = each["kind"], each["metadata"]
    if kind == "ConfigMap":
        data = each.get("data", {}) | each.get("binaryData", {})
        return f"{kind} {min(data, default='')}"
    component = metadata.get("labels", {}).get("app.kubernetes.io/component", "lookup")
    return str(kind if component == "lookup" else f"{kind} {metadata['name']}")


@cache
def rendered_root() -> Objects:
    """The objects of the root kustomization."""
    return render(ROOT)


def pod_spec(objects: Objects) -> Any:
    """The specification of the service's Pods."""
    return objects["Deployment"]["spec"]["template"]["spec"]


def container(objects: Objects) -> Any:
    """The one container of the service's Pods."""
    (found,) = pod_spec(objects)["containers"]
    return found


def job_spec(objects: Objects) -> Any:
    """The specification of the Pods that gather the subnets."""
    (found,) = (each for each in objects.values() if each["kind"] == "CronJob")
    return found["spec"]["jobTemplate"]["spec"]["template"]["spec"]


def config_map_of(volume: str, objects: Objects) -> str:
    """The name of the ConfigMap in the volume."""
    (name,) = (
        each["configMap"]["name"]
        for each in pod_spec(objects).get("volumes", [])
        if each["name"] == volume
    )
    return str(name)


def settings(objects: Objects) -> dict[str, str]:
    """The service's settings, from the ConfigMap that the container names."""
    (source,) = container(objects)["envFrom"]
    (found,) = (
        each["data"]
        for kind, each in objects.items()
        if kind.startswith("ConfigMap ")
        and each["metadata"]["name"] == source["configMapRef"]["name"]
    )
    return dict(found)


def called(policy: Any) -> str:
    """The Service and the namespace, with a dot between, that the policy calls."""
    text = json.dumps(policy).replace('\\"', '"')
    (names,) = (found.groups() for pattern in CALLED if (found := pattern.search(text)))
    return ".".join(names)


def table_of(size: int) -> str:
    """A table of so many subnets, as `subnets.py` prints it."""
    random = Random(0)
    entries = []
    for block in sorted(random.sample(range(2**20), size)):
        a, b, c = 10 + (block >> 16), block >> 8 & 0xFF, block & 0xFF
        zone = random.choice("abc")
        entries.append(
            {
                "CIDRBlock": f"{a}.{b}.{c}.0/24",
                "AvailabilityZone": f"eu-central-1{zone}",
                "AvailabilityZoneId": f"euc1-az{'bca'.index(zone) + 1}",
            }
        )
    return "[\n" + ",\n".join(f"    {json.dumps(entry)}" for entry in entries) + "\n]\n"


def options(text: str) -> Iterator[list[int]]:
    """The numbers of the lines of each option in the text, which may be chosen one by one."""
    chosen: list[int] = []
    indentation = 0
    for number, line in enumerate(text.splitlines()):
        found = OPTION.match(line)
        if chosen and not (found and number == chosen[-1] + 1 and len(found[1]) > indentation):
            yield chosen
            chosen = []
        if found:
            indentation = indentation if chosen else len(found[1])
            chosen.append(number)
    if chosen:
        yield chosen


def choose(text: str, *words: str) -> str:
    """The text with the options that contain these words chosen."""
    lines = text.splitlines()
    for word in words:
        (option,) = (numbers for numbers in options(text) if any(word in lines[n] for n in numbers))
        for number in option:
            lines[number] = lines[number].removeprefix("#")
    return "\n".join(lines) + "\n"


class Overlay:
    """A copy of the example overlay in a folder outside the repository, which is its base."""

    def __init__(self, parent: Path, base: str = "") -> None:
        self.folder = parent.resolve() / "overlay"
        shutil.copytree(EXAMPLE, self.folder)
        self.base = base or os.path.relpath(ROOT, self.folder)
        self.text = (self.folder / "kustomization.yaml").read_text()

    def write(self, *, text: str = "", components: tuple[str, ...] = ()) -> None:
        """Writes the kustomization, with these components besides those that it names."""
        lines = [f"  - https://github.com/OWNER/{NAME}//{each}?ref=v0\n" for each in components]
        text = (text or self.text).replace("components:\n", "components:\n" + "".join(lines))
        local = REMOTE.sub(lambda remote: self.base_of(remote[1]), text)
        (self.folder / "kustomization.yaml").write_text(local)

    def base_of(self, folder: str | None) -> str:
        """A folder of the repository, as the kustomization has to name it."""
        return f"{self.base}/{folder}" if folder else self.base

    def render(self, *, text: str = "", components: tuple[str, ...] = ()) -> Objects:
        """The objects, with this text instead of the example's."""
        self.write(text=text, components=components)
        return render(self.folder)


def overlay(test: Any) -> Overlay:
    """An overlay in a folder that goes when the test ends."""
    return Overlay(Path(test.enterContext(tempfile.TemporaryDirectory())))
