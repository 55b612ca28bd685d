"""What the tests of the chart share: `helm`, the objects that it makes, and what is in them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CHART = ROOT / "deploy"
FILES = CHART / "files"
NAME = "automatic-zone-placement"
TABLE = FILES / "example-subnets.json"

# What is rendered for, unless a test says otherwise: a helm that was built without its Makefile has 1.20.
KUBERNETES = "1.36.0"

AVAILABLE = shutil.which("helm") is not None
WHY_NOT = "the helm command is not on PATH"

# A chart that prints YAML as JSON, which nothing in Python's standard library reads.
_CONVERTER = """\
kind: List
items:
{{- range $path, $text := .Files.Glob "documents/*" }}
  - {{ $.Files.Get $path | fromYaml | toJson }}
{{- end }}
"""

Key = tuple[str, str]
Object = dict[str, Any]


def run(*command: str, text: str = "") -> str:
    """What the command prints; fails the test with what it complains of."""
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(f"{' '.join(command)}: {without_links(done.stderr)}")
    return done.stdout


def without_links(said: str) -> str:
    """What helm says, without its line for each link that it follows."""
    return "\n".join(line for line in said.splitlines() if "symbolic link" not in line)


def from_yaml(text: str) -> list[Any]:
    """The documents of a YAML text; each is a mapping."""
    with tempfile.TemporaryDirectory() as folder:
        chart = Path(folder)
        (chart / "Chart.yaml").write_text("apiVersion: v2\nname: converter\nversion: 0.0.0\n")
        (chart / "templates").mkdir()
        (chart / "templates" / "converter.yaml").write_text(_CONVERTER)
        (chart / "documents").mkdir()
        for number, each in enumerate(f"\n{text}".split("\n---\n")):
            (chart / "documents" / f"{number:04}").write_text(each)
        lines = run("helm", "template", folder).splitlines()
    prefix = "  - "
    found = [json.loads(line.removeprefix(prefix)) for line in lines if line.startswith(prefix)]
    assert not any("Error" in each for each in found), found
    return [each for each in found if each]


class Objects(dict[Key, Object]):
    """What a release consists of, by kind and name."""

    def one(self, kind: str, ending: str = "") -> Any:
        """The object of this kind whose name ends in this."""
        named = {name: each for (of, name), each in self.items() if of == kind}
        if ending:
            named = {name: each for name, each in named.items() if name.endswith(ending)}
        (found,) = named.values()
        return found

    def of(self, kind: str) -> dict[str, Any]:
        """All objects of a kind, by name."""
        return {name: each for (of, name), each in self.items() if of == kind}

    def pod(self, component: str = "lookup") -> Any:
        """The specification of a component's Pods."""
        (found,) = (
            template["spec"]
            for template in self.templates()
            if template["metadata"]["labels"]["app.kubernetes.io/component"] == component
        )
        return found

    def container(self, component: str = "lookup") -> Any:
        """The one container of a component's Pods."""
        (found,) = self.pod(component)["containers"]
        return found

    def templates(self) -> Iterator[Any]:
        """The templates of all Pods, and the Pods."""
        for (kind, _), each in self.items():
            if kind == "Deployment":
                yield each["spec"]["template"]
            elif kind == "CronJob":
                yield each["spec"]["jobTemplate"]["spec"]["template"]
            elif kind == "Pod":
                yield each

    def lay_out(self, volume: str, component: str, folder: Path) -> None:
        """Writes the files of a Pod's volume, as the kubelet would."""
        (found,) = (each for each in self.pod(component)["volumes"] if each["name"] == volume)
        for source in found.get("projected", {}).get("sources") or [found]:
            config_map = self["ConfigMap", source["configMap"]["name"]]
            for item in source["configMap"]["items"]:
                path = folder / item["path"]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(config_map["data"][item["key"]])


def environment(container: Any) -> dict[str, str]:
    """The variables of a container that have a value of their own."""
    return {each["name"]: each["value"] for each in container["env"] if "value" in each}


def named(each: Iterable[Any], name: str) -> Any:
    """The one of this name, of volumes, ports and the like."""
    (found,) = (one for one in each if one["name"] == name)
    return found


def rendering(*options: str, chart: Path = CHART) -> list[str]:
    """The command that renders a chart; a later option counts more."""
    where = ["--namespace", NAME, "--kube-version", KUBERNETES]
    return ["helm", "template", NAME, str(chart), *where, *options]


@cache
def _rendered(chart: Path, options: tuple[str, ...]) -> str:
    return json.dumps(from_yaml(run(*rendering(*options, chart=chart))))


def render(*values: str, **options: str) -> Objects:
    """The objects that the chart makes of these values: see `render_chart`."""
    return render_chart(CHART, *values, **options)


def render_chart(chart: Path, *values: str, **options: str) -> Objects:
    """The objects that a chart makes of values such as "relocation.enabled=true".

    It has the example's table if they have none. `@key=FILE` is the text of a file. The options are
    `helm template`'s, such as `kube_version`; what `helm test` makes comes with skip_tests="false".
    """
    tables = ("exampleTable", "@subnets", "subnetsConfigMap", "awsSubnets.enabled")
    if not any(each.startswith(tables) for each in values):
        values = ("exampleTable=true", *values)
    arguments = []
    for each in values:
        file, is_file = each.removeprefix("@"), each.startswith("@")
        arguments += ["--set-file" if is_file else "--set", file]
    options = {"skip_tests": "true"} | options
    arguments += [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    objects = Objects()
    for each in json.loads(_rendered(chart, tuple(arguments))):
        key = each["kind"], each["metadata"]["name"]
        assert key not in objects, f"two of {key}"
        objects[key] = each
    return objects


def refusal(*arguments: str, environment: Mapping[str, str] = os.environ) -> str:
    """What helm says of arguments with which it installs nothing."""
    done = subprocess.run(
        rendering(*arguments), capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode, arguments
    return without_links(done.stderr)


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
