"""What the tests of the alerts and of the dashboard share: `promtool`, and what the programs really count."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from common.metrics import render
from relocation.metrics import RelocationMetrics
from tests.certificates import Authority
from tests.support import SUBNETS
from tests.test_process import serving

# What is not ours, but the API server's, Prometheus' own, kube-state-metrics', Kyverno's, cert-manager's.
FOREIGN = {
    "ALERTS",
    "apiserver_admission_webhook_fail_open_count",
    "certmanager_certificate_expiration_timestamp_seconds",
    "kube_cronjob_created",
    "kube_cronjob_spec_suspend",
    "kube_cronjob_status_last_successful_time",
    "kube_deployment_spec_replicas",
    "kube_deployment_status_replicas_available",
    "kube_mutatingwebhookconfiguration_info",
    "kube_mutatingwebhookconfiguration_webhook_clientconfig_service",
    "kyverno_mutating_policy_results_total",
    "process_start_time_seconds",
    "up",
}

# What may stand in an expression besides metrics, functions and numbers.
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_SELECTOR = re.compile(r"([a-zA-Z_:][\w:]*)\s*\{([^}]*)\}")
_MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"((?:[^"\\]|\\.)*)"')
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)")
_RANGE = re.compile(r"\[[^]]*\]|\boffset\s+\w+")
_NAME = re.compile(r"(?<![\w.:])([a-zA-Z_:][\w:]*)(?!\s*\(|[\w:])")
_KEYWORDS = {"and", "or", "unless", "bool", "inf", "nan"}


def metrics_in(expression: str) -> set[str]:
    """The names of the metrics in a PromQL expression."""
    for pattern in (_STRING, _GROUPING, _RANGE):
        expression = pattern.sub(" ", expression)
    expression = re.sub(r"\{[^}]*\}", " ", expression)
    return set(_NAME.findall(expression)) - _KEYWORDS


def values_in(expression: str) -> set[tuple[str, str, str]]:
    """Of each metric with a label, the values that the PromQL expression names one by one."""
    return {
        (metric, label, value)
        for metric, matchers in _SELECTOR.findall(expression)
        for label, _, text in _MATCHER.findall(matchers)
        for value in text.split("|")
        if re.fullmatch(r"\w+", value)
    }


def promtool(command: str, document: object) -> str:
    """What `promtool` says of a document of rules or of tests; empty if it is content."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(document, file)  # which is YAML, too
        file.flush()
        done = subprocess.run(
            ["promtool", command, "rules", file.name], capture_output=True, text=True, check=False
        )
    return f"{done.stdout}{done.stderr}" if done.returncode else ""


@cache
def scraped() -> set[tuple[str, str, str]]:
    """Each metric that there is, each of its labels, and each of the values that this has."""
    text = everything() + render(RelocationMetrics().families()).decode()
    found = set()
    for line in re.findall(r"^(?!# HELP).+", text, re.MULTILINE):
        name, _, labels = line.removeprefix("# TYPE ").partition(" ")[0].partition("{")
        found |= {(name, label, value) for label, _, value in _MATCHER.findall(labels)}
        found.add((name, "", ""))
    return found


def everything() -> str:
    """What a service counts that has a webhook, keeps decisions, and has a table that was gathered."""
    with tempfile.TemporaryDirectory() as folder:
        certificate = Authority(Path(folder)).issue("server").settings()
        table = Path(folder, "subnets.json")
        table.write_text(json.dumps({"GatheredAt": "2026-01-31T12:00:00Z", "Subnets": SUBNETS}))
        settings = {
            "TLS_PORT": "0",
            "SUBNETS_FILE": str(table),
            "KEPT_DECISIONS": "default/kept",
            "KUBERNETES_URL": "http://127.0.0.1:1",  # where nobody is
        }
        with serving(**certificate, **settings) as server:
            body: str = server.request("/metrics").body
            return body
