"""The alerts: that Prometheus takes them, when they fire, and when they do not."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import unittest
from collections import Counter as Multiset
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, NamedTuple

from common.names import VERSION
from tests.certificates import AVAILABLE, WHY_NOT
from tests.chart import AVAILABLE as HELM
from tests.chart import FILES, NAME, ROOT, from_yaml
from tests.chart import WHY_NOT as NO_HELM
from tests.component_alerts import (
    COMPONENTS,
    EXPIRY,
    FAILED_OPEN,
    GATHERED,
    KYVERNO_ERRORS,
    LAST_ROUND,
    OPA_EXPIRY,
    WAITING,
)
from tests.lookup_alerts import LOOKUPS, OWN
from tests.prometheus import FOREIGN, metrics_in, promtool, scraped, values_in
from tests.samples import (
    DAY,
    HEALTHY,
    LIFE,
    TARGET,
    Case,
    Series,
    always,
    at,
    given,
    lookups,
    never,
    only,
    slow,
    steps,
    text_of,
)

PREFIX = "AutomaticZonePlacement"

PAGE = (ROOT / "docs" / "operating.md").read_text()

# How the page begins a sentence that says when an alert fires.
_SAID = re.compile(r"\b((?:It fires|It stays quiet|None fires)\b.+?\.)(?=\s)")

# Everything at once, and what each alert says of it, besides its labels.
BROKEN_AT = 300
BROKEN: Series = {
    **only(
        Success=steps((LIFE, 1)), ResolverTimeout=steps((LIFE, 29)), ZoneAvoided=steps((LIFE, 70))
    ),
    **slow(steps((LIFE, 1)), steps((LIFE, 41))),
    "event_loop_late_seconds_total": steps((LIFE, 30)),
    lookups("InternalError", "person"): at(BROKEN_AT - 10),
    "dns_stale_answers_total": steps((LIFE, 40)),
    "example_table": always(1),
    'subnets_reloads_total{outcome="failure"}': steps((LIFE, 1)),
    'subnets_hash{instance="b"}': always(7),
    "subnets_warnings": always(2),
    GATHERED: always(60 * BROKEN_AT - 7 * 3600),
    "log_lines_dropped_total": steps((LIFE, 1)),
    EXPIRY: always(3 * DAY + 60 * BROKEN_AT),
    OPA_EXPIRY: always(2 * DAY + 60 * BROKEN_AT),
    "tls_reload_failures_total": steps((LIFE, 1)),
    OWN: never(),
    LAST_ROUND: always(0),
    WAITING: always(5 * 3600),
    FAILED_OPEN: steps((LIFE, 1)),
    KYVERNO_ERRORS: steps((LIFE, 1)),
    "kept_written_timestamp_seconds": always(60 * BROKEN_AT - 600),
    "kept_unheeded_total": steps((LIFE, 6)),
}
SERVICE = {"job": "j", "namespace": "n"}
SUMMARIES: dict[str, tuple[dict[str, str], str]] = {
    "LookupsFail": (TARGET, "Of the lookups for Pods at a, only 71% are answered."),
    "SomeLookupsFail": (
        SERVICE,
        "For hours, lookups for Pods at j in n have failed now and then; only 71% are answered.",
    ),
    "NoAnswers": (
        SERVICE,
        "Of the last day's lookups for Pods at j in n, hardly any led to a zone.",
    ),
    "NotPlaced": (
        SERVICE,
        "Of the last hours' lookups for Pods at j in n, 70% led to no placement, though nothing failed.",
    ),
    "NobodyAsks": (
        SERVICE,
        "Nobody asks j in n where to place Pods: its webhook's configuration, or the policy, is gone.",
    ),
    "StaleAnswers": (TARGET, "DNS fails for a, which goes on with old addresses."),
    "Slow": (
        TARGET,
        "More than one of a hundred lookups at a takes longer than 2.5 s, and who asks waits for 3 s.",
    ),
    "Hangs": (TARGET, "a has not got to run for 50% of the time."),
    "Defect": (TARGET, "a has a defect: it answered without an answer."),
    "ExampleTable": (TARGET, "The table of subnets at a is the example, not yours."),
    "TableNotReloaded": (
        TARGET | {"outcome": "failure"},
        "The changed table of subnets cannot be used by a, which goes on with the former one.",
    ),
    "TablesDiffer": (SERVICE, "The instances of j in n have different tables of subnets."),
    "TableWarnings": (TARGET, "a can use its table of subnets, but warns of it."),
    "GatheringFails": (
        {"namespace": "n"},
        "In n, no table of subnets has been gathered for 7h 0m 0s.",
    ),
    "LogLinesDropped": (TARGET, "Nobody reads the log of a, or not fast enough."),
    "CertificateExpires": (TARGET, "The webhook's certificate at a expires in 3d 0h 0m 0s."),
    "OpaCertificateExpires": (
        {"name": "automatic-zone-placement-opa"},
        "OPA's certificate automatic-zone-placement-opa expires in 2d 0h 0m 0s.",
    ),
    "CertificateNotReloaded": (
        TARGET,
        "The webhook's changed certificate cannot be used by a, which goes on with the former one.",
    ),
    "RelocationStopped": (
        SERVICE,
        "Relocation (j in n) has made no round for a quarter of an hour.",
    ),
    "RelocationWaits": (
        SERVICE | {"reason": "budget"},
        "For 5h 0m 0s, a Pod has waited to be relocated (j in n); what keeps it is budget.",
    ),
    "FailsOpen": (
        {"name": "place-pod.automatic-zone-placement.svc"},
        "The API server calls the webhook place-pod.automatic-zone-placement.svc in vain, "
        "and creates Pods without it.",
    ),
    "KyvernoFails": (
        {"policy_name": "automatic-zone-placement"},
        "Kyverno cannot use its policy automatic-zone-placement, and creates Pods without it.",
    ),
    "KeptNotWritten": (
        SERVICE,
        "The decisions that j in n keeps for the API server were last written 10m 0s ago.",
    ),
    "KeptNotUsed": (
        SERVICE,
        "The API server does not go by the decisions that j in n keeps for it.",
    ),
}


def said() -> dict[str, dict[str, Case]]:
    """All cases, by the sentence."""
    return LOOKUPS | COMPONENTS


def sentences() -> list[str]:
    """Those of the page that say when an alert fires."""
    found: list[str] = _SAID.findall(" ".join(PAGE.split()))
    return found


@cache
def groups() -> Any:
    """The groups of rules."""
    (rules,) = from_yaml((FILES / "alerts.yaml").read_text())
    return rules["groups"]


def alerts() -> dict[str, Any]:
    """The alerts, by their names without what these have in common."""
    return {each["alert"].removeprefix(PREFIX): each for each in groups()[0]["rules"]}


# The cases, as `promtool` wants them.


def test_of(name: str, case: Case) -> dict[str, object]:
    """A test for `promtool` of all that the case expects, and that nothing else ever fires."""
    last = max(case.expected)
    expressions = [firing(minute, names) for minute, names in case.expected.items()]
    ever = {each for names in case.expected.values() for each in split(names)}
    return {
        "name": name,
        "interval": f"{case.interval}s",
        "input_series": series(case, last, case.interval),
        "promql_expr_test": [*expressions, fired(last, case.pause, ever)],
    }


class Part(NamedTuple):
    """Cases that `promtool` tries together."""

    tests: list[dict[str, object]]
    rules: list[Any]
    pause: int


def parts() -> Iterator[Part]:
    """All cases, by their sentence and pause, each with the alerts that the sentence is about.

    To try each with all alerts would take minutes. Where all is well, and where all is broken, they are.
    """
    for sentence, cases in said().items():
        rules = [rule for name, rule in alerts().items() if name in about(sentence)]
        for pause in {case.pause for case in cases.values()}:
            chosen = [(name, case) for name, case in cases.items() if case.pause == pause]
            yield Part([test_of(f"{n}: {sentence}", case) for n, case in chosen], rules, pause)


def about(sentence: str) -> set[str]:
    """The alert in whose section the sentence stands, and those that its cases name; or else all."""
    before, found, _ = " ".join(PAGE.split()).partition(sentence)
    section = re.findall(rf"### {PREFIX}(\w+)", before)[-1:] if found else []
    cases = said()[sentence].values()
    named = {
        n
        for case in cases
        for names in case.expected.values()
        for n in re.findall(r"[A-Z]\w+", names)
    }
    return {*section, *named} or set(alerts())


def tried(part: Part) -> str:
    """What `promtool` says of it; empty if it is content."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as rules:
        json.dump({"groups": [{"name": NAME, "rules": part.rules}]}, rules)
        rules.flush()
        document = {
            "rule_files": [rules.name],
            "evaluation_interval": f"{part.pause}m",
            "tests": part.tests,
        }
        return promtool("test", document)


def series(case: Case, minutes: float, interval: int) -> list[dict[str, str]]:
    return [
        {"series": given(short), "values": text_of(samples, minutes, interval)}
        for short, samples in (HEALTHY | case.differences).items()
    ]


def split(names: str) -> list[str]:
    return [each for each in names.split(", ") if each]


def firing(minute: int, names: str) -> dict[str, object]:
    """That these alerts fire at this minute, and no others."""
    expected = Multiset(labels_of(each) for each in split(names))
    return {
        "expr": 'count by (alertname, instance) (ALERTS{alertstate="firing"})',
        "eval_time": f"{minute}m",
        "exp_samples": [{"labels": each, "value": count} for each, count in expected.items()],
    }


def fired(minute: int, pause: int, names: Iterable[str]) -> dict[str, object]:
    """That these alerts have fired until this minute, and no others."""
    ever = f'max_over_time(ALERTS{{alertstate="firing"}}[{minute}m:{pause}m])'
    return {
        "expr": f"group by (alertname, instance) ({ever})",
        "eval_time": f"{minute}m",
        "exp_samples": [{"labels": each, "value": 1} for each in {labels_of(n) for n in names}],
    }


def labels_of(alert: str) -> str:
    """Those of an alert, which is that of instance "a" if it is any instance's and none is given."""
    name, _, instance = alert.partition(" ")
    by_instance = "$labels.instance" in alerts()[name]["annotations"]["summary"]
    instance = instance or ("a" if by_instance else "")
    rest = f',instance="{instance}"' if instance else ""
    return f'{{alertname="{PREFIX}{name}"{rest}}}'


@unittest.skipUnless(HELM, NO_HELM)
class RulesTest(unittest.TestCase):
    @unittest.skipUnless(AVAILABLE, WHY_NOT)
    def test_every_metric_is_there(self) -> None:
        known = {metric for metric, _, _ in scraped()} | FOREIGN
        for name, alert in alerts().items():
            with self.subTest(name):
                self.assertLessEqual(metrics_in(alert["expr"]), known)

    @unittest.skipUnless(AVAILABLE, WHY_NOT)
    def test_every_value_of_a_label_is_there(self) -> None:
        for name, alert in alerts().items():
            for metric, label, value in values_in(alert["expr"]):
                if metric not in FOREIGN:
                    with self.subTest(name, metric=metric):
                        self.assertIn((metric, label, value), scraped())

    def test_every_alert_has_its_section(self) -> None:
        base = rf"https://github\.com/[\w-]+/{NAME}/blob/v{re.escape(VERSION)}/docs/operating\.md"
        for alert in alerts().values():
            name = alert["alert"]
            with self.subTest(name):
                self.assertRegex(alert["annotations"]["runbook_url"], f"^{base}#{name.lower()}$")
                self.assertIn(f"\n### {name}\n", PAGE)
        self.assertEqual(PAGE.count(f"\n### {PREFIX}"), len(alerts()))

    def test_what_every_alert_says_is_tried(self) -> None:
        self.assertEqual(set(SUMMARIES) | {"Absent"}, set(alerts()))

    def test_every_section_says_when_it_fires(self) -> None:
        for section in PAGE.split(f"\n### {PREFIX}")[1:]:
            with self.subTest(section.partition("\n")[0]):
                self.assertRegex(section, "It fires ")

    def test_every_sentence_that_says_when_is_tried(self) -> None:
        self.assertEqual(sorted(sentences()), sorted(said()))

    def test_every_alert_has_a_severity(self) -> None:
        for name, alert in alerts().items():
            with self.subTest(name):
                self.assertIn(alert["labels"]["severity"], {"info", "warning"})

    def test_every_alert_fires_and_does_not(self) -> None:
        for name in alerts():
            with self.subTest(name):
                fires = {
                    name in re.findall(r"\w+", names)
                    for cases in said().values()
                    for case in cases.values()
                    for names in case.expected.values()
                }
                self.assertEqual(fires, {True, False})


@unittest.skipUnless(HELM, NO_HELM)
@unittest.skipUnless(
    shutil.which("promtool"), "promtool (Debian package prometheus) is not on PATH"
)
class PromtoolTest(unittest.TestCase):
    def test_the_rules_are_valid(self) -> None:
        self.assertEqual(promtool("check", {"groups": groups()}), "")

    def test_what_fires_when(self) -> None:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for problems in pool.map(tried, parts()):
                self.assertEqual(problems, "")

    def test_what_they_say(self) -> None:
        case = Case(BROKEN, {BROKEN_AT: ""})
        found = [
            {
                "eval_time": f"{BROKEN_AT}m",
                "alertname": f"{PREFIX}{name}",
                "exp_alerts": [
                    {
                        "exp_labels": labels | alerts()[name]["labels"],
                        "exp_annotations": alerts()[name]["annotations"] | {"summary": summary},
                    }
                ],
            }
            for name, (labels, summary) in SUMMARIES.items()
        ]
        test: dict[str, object] = {
            "interval": "1m",
            "input_series": series(case, BROKEN_AT, 60),
            "alert_rule_test": found,
        }
        everything = Part([test], list(alerts().values()), 1)
        self.assertEqual(tried(everything), "")


if __name__ == "__main__":
    unittest.main()
