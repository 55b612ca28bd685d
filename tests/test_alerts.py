"""The alerts: that Prometheus takes them, when they fire, and when they do not."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import unittest
from collections import Counter as Multiset
from collections.abc import Mapping
from functools import cache
from typing import Any

from common.names import VERSION
from tests.certificates import AVAILABLE, WHY_NOT
from tests.chart import AVAILABLE as HELM
from tests.chart import FILES, NAME, ROOT, from_yaml
from tests.chart import WHY_NOT as NO_HELM
from tests.prometheus import FOREIGN, metrics_in, promtool, scraped, values_in

PREFIX = "AutomaticZonePlacement"

DAY = 86400
HOURS = 3  # that each case lasts; there is a sample each minute, as seldom as Prometheus asks by default
MINUTES = 60 * HOURS

FAIL_OPEN = "apiserver_admission_webhook_fail_open_count"
OWN_WEBHOOK = f'{FAIL_OPEN}{{name="place-pod.automatic-zone-placement.svc"}}'


def steps(*counts: tuple[int, int]) -> str:
    """A counter's samples: (minutes, increase a minute), and no increase from then on."""
    parts, value = ["0"], 0
    for minutes, increase in (each for each in counts if each[0]):
        parts.append(f"{value + increase}+{increase}x{minutes - 1}")
        value += minutes * increase
    return " ".join([*parts, f"{value}x{MINUTES}"])


def always(value: float) -> str:
    return f"{value}x{MINUTES}"


def at(minute: int, count: int = 1) -> str:
    """A counter that increases once."""
    return steps((minute, 0), (1, count))


# A service with everything that there is, of which a lookup a second is asked. The names are without
# our prefix, and the instance is "a" if none is given.
HEALTHY = {
    "build_info": always(1),
    'lookups_total{outcome="Success"}': steps((MINUTES, 60)),
    'lookups_total{outcome="InvalidRequest"}': always(0),
    'lookups_total{outcome="InvalidName"}': always(0),
    'lookups_total{outcome="NameNotAllowed"}': always(0),
    'lookups_total{outcome="NameNotFound"}': always(0),
    'lookups_total{outcome="ZoneNotFound"}': always(0),
    'lookups_total{outcome="ResolverFailure"}': always(0),
    'lookups_total{outcome="ResolverTimeout"}': always(0),
    'lookups_total{outcome="Overloaded"}': always(0),
    'lookups_total{outcome="InternalError"}': always(0),
    'lookup_duration_seconds_bucket{le="0.001"}': steps((MINUTES, 60)),
    'lookup_duration_seconds_bucket{le="2.5"}': steps((MINUTES, 60)),
    'lookup_duration_seconds_bucket{le="5.0"}': steps((MINUTES, 60)),
    'lookup_duration_seconds_bucket{le="+Inf"}': steps((MINUTES, 60)),
    "lookup_duration_seconds_count": steps((MINUTES, 60)),
    "dns_stale_answers_total": always(0),
    "example_table": always(0),
    'subnets_reloads_total{outcome="success"}': steps((30, 0), (1, 1)),
    'subnets_reloads_total{outcome="failure"}': always(0),
    "log_lines_dropped_total": always(0),
    "tls_certificate_expiry_timestamp_seconds": always(60 * DAY),
    "tls_reload_failures_total": always(0),
    'relocation_last_success_timestamp_seconds{instance="r"}': f"0 0+60x{MINUTES}",
    OWN_WEBHOOK: always(0),
}


def quiet(**outcomes: str) -> dict[str, str]:
    """What differs if only these lookups are asked for, each of them answered at once."""
    series = {name: always(0) for name in HEALTHY if name.startswith("lookup")}
    return series | {f'lookups_total{{outcome="{name}"}}': each for name, each in outcomes.items()}


# What counts those that take longer than 2.5 s.
SLOWER = (
    'lookup_duration_seconds_bucket{le="5.0"}',
    'lookup_duration_seconds_bucket{le="+Inf"}',
    "lookup_duration_seconds_count",
)


def slow(first: int, fast: int, slow: int, minutes: int = 60) -> dict[str, str]:
    """What differs if from the first minute on so many lookups a minute are fast, and so many take 4 s."""

    def each(increase: int) -> str:
        return steps((first, 0), (minutes, increase))

    return {
        'lookup_duration_seconds_bucket{le="0.001"}': each(fast),
        'lookup_duration_seconds_bucket{le="2.5"}': each(fast),
        **dict.fromkeys(SLOWER, each(fast + slow)),
    }


# what happens: what differs from HEALTHY, and by minute the alerts that fire then
CASES: dict[str, tuple[dict[str, str], dict[int, str]]] = {
    "all is well": ({}, {1: "", 20: "", 60: "", MINUTES: ""}),
    "nobody asks": (quiet(), {20: "", MINUTES: ""}),
    "neither webhook nor relocation, and the API server is not scraped": (
        {name: "" for name in HEALTHY if re.match("tls|relocation|apiserver", name)},
        {20: "", MINUTES: ""},
    ),
    "it starts late, and fails once": (
        {
            name: "" if "relocation" in name else f"_x60 {values}"
            for name, values in (HEALTHY | quiet(ResolverTimeout=at(3))).items()
        },
        {5: "", 15: "Absent", 62: "", 70: "", 100: ""},
    ),
    "it is scaled down and up": (
        {"build_info": "1x30 stale _x7 1x100"},
        {30: "", 31: "", 38: "", 60: ""},
    ),
    "it is gone": (
        {"build_info": "1x30 stale _x18 1x100"},
        {30: "", 40: "", 41: "Absent", 49: "Absent", 50: ""},
    ),
    # Lookups that fail.
    "users misspell names": (
        quiet(NameNotFound=steps((MINUTES, 60)), InvalidName=steps((MINUTES, 60))),
        {20: "", 60: "", MINUTES: ""},
    ),
    "of three a day, one fails": (
        quiet(Success=steps((10, 0), (2, 1)), ResolverTimeout=at(60)),
        {61: "", 65: "", 80: "", MINUTES: ""},
    ),
    "of three a day, two fail": (
        quiet(Success=at(10), ResolverTimeout=steps((60, 0), (2, 1))),
        {62: "", 68: "", 80: "", MINUTES: ""},
    ),
    "of three a day, all fail": (
        quiet(
            ResolverTimeout=steps((10, 0), (1, 1), (49, 0), (1, 1), (49, 0), (1, 1)),
            NameNotFound=at(20, 9),
        ),
        {112: "", 130: "", 145: "NoAnswers", MINUTES: "NoAnswers"},
    ),
    "all failed until one did not": (
        quiet(ResolverTimeout=steps((10, 0), (3, 1)), Success=at(100)),
        {12: "", 40: "LookupsFail", 46: "NoAnswers", 99: "NoAnswers", 102: ""},
    ),
    "the table lacks what is asked for": (
        quiet(ZoneNotFound=steps((MINUTES, 1))),
        {20: "", 30: "", 40: "NoAnswers", MINUTES: "NoAnswers"},
    ),
    "a tenth is in no subnet": (
        {'lookups_total{outcome="ZoneNotFound"}': steps((MINUTES, 6))},
        {20: "", 60: "", MINUTES: ""},
    ),
    "DNS is away for a minute": (
        {
            'lookups_total{outcome="Success"}': steps((60, 60), (1, 30), (119, 60)),
            'lookups_total{outcome="ResolverTimeout"}': at(60, 30),
            "dns_stale_answers_total": at(60, 30),
        },
        {61: "", 64: "", 67: "", 70: "", 90: ""},
    ),
    "DNS is away for half an hour": (
        {
            'lookups_total{outcome="Success"}': steps((65, 60), (25, 0), (90, 60)),
            'lookups_total{outcome="ResolverTimeout"}': steps((65, 0), (25, 60)),
            "dns_stale_answers_total": steps((60, 0), (5, 60)),
        },
        {64: "", 68: "StaleAnswers", 75: "LookupsFail", 110: "LookupsFail", 120: ""},
    ),
    "one of two DNS servers is away": (
        {"dns_stale_answers_total": steps((60, 0), (60, 6))},
        {60: "", 64: "", 70: "StaleAnswers", 120: "StaleAnswers", 126: ""},
    ),
    "some fail, and then no more": (
        quiet(Success=steps((60, 0), (60, 10)), ResolverTimeout=at(60, 4)),
        {61: "", 62: "", 63: "", 65: "", 70: ""},
    ),
    "the counters begin anew": (
        {'lookups_total{outcome="ResolverTimeout"}': f"2x60 {always(0)}"},
        {60: "", 62: "", 70: ""},
    ),
    "one of two instances": (
        {
            'lookups_total{outcome="Success",instance="b"}': always(7),
            'lookups_total{outcome="Overloaded",instance="b"}': steps((60, 0), (60, 1)),
        },
        {62: "", 70: "LookupsFail b", 120: "LookupsFail b"},
    ),
    "few ask, and DNS is away": (
        quiet(Success=steps(*[(3, 0), (1, 1)] * 40))
        | {
            "lookup_duration_seconds_count": steps(*[(3, 0), (1, 1)] * 40),
            "dns_stale_answers_total": steps((60, 0), *[(3, 0), (1, 1)] * 10),
        },
        {70: "", 90: "", 110: ""},
    ),
    # Slow ones.
    "each takes a second": (
        {'lookup_duration_seconds_bucket{le="0.001"}': always(0)},
        {60: "", MINUTES: ""},
    ),
    "each hundredth is slow": (slow(60, 1000, 10), {70: "", 90: "", 120: ""}),
    "each fiftieth is slow": (slow(60, 98, 2), {61: "", 70: "Slow", 120: "Slow", 150: ""}),
    "three slow ones, and then no more": (
        slow(60, 100, 0) | {name: steps((60, 0), (1, 103), (59, 100)) for name in SLOWER},
        {61: "", 62: "", 65: "", 70: ""},
    ),
    "two slow ones": (slow(60, 0, 2, minutes=1), {61: "", 68: "", 90: ""}),
    # The table and the log.
    "somebody tries it": (
        {"example_table": f"1x10 {always(0)}"},
        {9: "", 15: "", 60: ""},
    ),
    "the example stays": (
        {"example_table": always(1)},
        {14: "", 15: "ExampleTable", MINUTES: "ExampleTable"},
    ),
    "a file that is being written": (
        {'subnets_reloads_total{outcome="failure"}': at(60)},
        {61: "", 70: "", 72: "", 90: ""},
    ),
    "a file that cannot be used": (
        {'subnets_reloads_total{outcome="failure"}': steps((60, 0), (60, 1))},
        {70: "", 72: "TableNotReloaded", 120: "TableNotReloaded", 132: ""},
    ),
    "nobody reads the log for a while": (
        {"log_lines_dropped_total": at(60, 9)},
        {60: "", 62: "LogLinesDropped", 119: "LogLinesDropped", 122: ""},
    ),
    "nor that of relocation": (
        {'log_lines_dropped_total{instance="r"}': at(60, 9)},
        {60: "", 62: "LogLinesDropped r", 122: ""},
    ),
    # The webhook.
    "the certificate is renewed in time": (
        {"tls_certificate_expiry_timestamp_seconds": f"{7 * DAY + 7200}x110 {always(60 * DAY)}"},
        {60: "", 110: "", MINUTES: ""},
    ),
    "the certificate is renewed late": (
        {"tls_certificate_expiry_timestamp_seconds": f"{7 * DAY}x120 {always(60 * DAY)}"},
        {59: "", 62: "CertificateExpires", 120: "CertificateExpires", 122: ""},
    ),
    "the certificate has expired": (
        {"tls_certificate_expiry_timestamp_seconds": always(0)},
        {62: "CertificateExpires", MINUTES: "CertificateExpires"},
    ),
    "a certificate that is being written": (
        {"tls_reload_failures_total": at(60)},
        {61: "", 70: "", 72: "", 90: ""},
    ),
    "a certificate that cannot be used": (
        {"tls_reload_failures_total": steps((60, 0), (60, 3))},
        {70: "", 72: "CertificateNotReloaded", 120: "CertificateNotReloaded", 132: ""},
    ),
    "two calls in vain": ({OWN_WEBHOOK: at(60, 2)}, {61: "", 70: "", MINUTES: ""}),
    "calls in vain": (
        {OWN_WEBHOOK: steps((60, 0), (10, 1))},
        {60: "", 66: "FailsOpen", 120: "FailsOpen", 132: ""},
    ),
    "Kyverno is called in vain": (
        {
            f'{FAIL_OPEN}{{name="mutate.kyverno.svc-ignore"}}': steps((60, 0), (10, 1)),
            f'{FAIL_OPEN}{{name="mpol.validate.kyverno.svc-ignore-finegrained-automatic-zone-placement"}}': (
                steps((90, 0), (10, 1))
            ),
        },
        {66: "FailsOpen", 110: "FailsOpen, FailsOpen", 140: "FailsOpen", 165: ""},
    ),
    "others are called in vain": (
        {
            f'{FAIL_OPEN}{{name="mutate.kyverno.svc-fail"}}': steps((60, 0), (10, 100)),
            f'{FAIL_OPEN}{{name="webhook.example.com"}}': steps((60, 0), (10, 100)),
        },
        {66: "", 120: ""},
    ),
    # Relocation, the time of whose last round is counted from the beginning here.
    "relocation hangs": (
        {'relocation_last_success_timestamp_seconds{instance="r"}': f"0+60x60 {always(3600)}"},
        {70: "", 84: "", 87: "RelocationStopped", MINUTES: "RelocationStopped"},
    ),
    "relocation never succeeds": (
        {'relocation_last_success_timestamp_seconds{instance="r"}': f"_x60 {always(0)}"},
        {60: "", 69: "", 72: "RelocationStopped", MINUTES: "RelocationStopped"},
    ),
    "relocation is replaced": (
        {
            'relocation_last_success_timestamp_seconds{instance="r"}': "0+60x60 _x100",
            'relocation_last_success_timestamp_seconds{instance="s"}': "_x61 0 3720+60x100",
        },
        {61: "", 62: "", 80: "", 90: "", 150: ""},
    ),
    "relocation is gone": (
        {'relocation_last_success_timestamp_seconds{instance="r"}': "0+60x60 _x100"},
        {74: "", 87: "RelocationStopped", 118: "RelocationStopped", 122: ""},
    ),
}

for reason in ("ResolverFailure", "ResolverTimeout", "Overloaded", "InternalError"):
    CASES[f"a fifth ends with {reason}"] = (
        {
            'lookups_total{outcome="Success"}': steps((60, 60), (60, 48)),
            f'lookups_total{{outcome="{reason}"}}': steps((60, 0), (60, 12)),
        },
        {62: "", 90: "LookupsFail", 120: "LookupsFail", 160: ""},
    )
    CASES[f"all end with {reason}, once in an hour"] = (
        quiet(**{reason: steps((10, 0), (1, 1), (59, 0), (1, 1), (59, 0), (1, 1))}),
        {130: "", 145: "", 162: "NoAnswers", MINUTES: "NoAnswers"},
    )

# Everything at once, and what each alert says of it, besides its labels.
BROKEN: dict[str, str] = {
    'lookups_total{outcome="Success"}': steps((MINUTES, 1)),
    'lookups_total{outcome="ResolverTimeout"}': steps((MINUTES, 40)),
    "dns_stale_answers_total": steps((MINUTES, 40)),
    **slow(0, 1, 40, MINUTES),
    "example_table": always(1),
    'subnets_reloads_total{outcome="failure"}': steps((MINUTES, 1)),
    "log_lines_dropped_total": steps((MINUTES, 1)),
    "tls_certificate_expiry_timestamp_seconds": always(3 * DAY + HOURS * 3600),
    "tls_reload_failures_total": steps((MINUTES, 1)),
    'relocation_last_success_timestamp_seconds{instance="r"}': always(0),
    OWN_WEBHOOK: steps((MINUTES, 1)),
}
TARGET = {"instance": "a", "job": "j", "namespace": "n"}
SERVICE = {"job": "j", "namespace": "n"}
SUMMARIES: dict[str, tuple[dict[str, str], str]] = {
    "LookupsFail": (TARGET, "Of the lookups at a, only 2.439% are answered."),
    "NoAnswers": (SERVICE, "Of the last day's lookups at j in n, hardly any was answered."),
    "StaleAnswers": (TARGET, "DNS fails for a, which goes on with old addresses."),
    "Slow": (
        TARGET,
        "More than one of a hundred lookups at a takes longer than 2.5 s, and who asks waits for 3 s.",
    ),
    "ExampleTable": (TARGET, "The table of subnets at a is the example, not yours."),
    "TableNotReloaded": (
        TARGET | {"outcome": "failure"},
        "The changed table of subnets cannot be used by a, which goes on with the former one.",
    ),
    "LogLinesDropped": (TARGET, "Nobody reads the log of a, or not fast enough."),
    "CertificateExpires": (TARGET, "The webhook's certificate at a expires in 3d 0h 0m 0s."),
    "CertificateNotReloaded": (
        TARGET,
        "The webhook's changed certificate cannot be used by a, which goes on with the former one.",
    ),
    "RelocationStopped": (
        SERVICE,
        "Relocation (j in n) has made no round for a quarter of an hour.",
    ),
    "FailsOpen": (
        {"name": "place-pod.automatic-zone-placement.svc"},
        "The API server calls the webhook place-pod.automatic-zone-placement.svc in vain, "
        "and creates Pods without it.",
    ),
}


def series(short: str, values: str) -> dict[str, str]:
    """A series as `promtool` wants it, with our prefix and the labels of a target."""
    name, _, labels = short.partition("{")
    found = TARGET | dict(re.findall(r'(\w+)="([^"]*)"', labels))
    prefix = "" if name == FAIL_OPEN else "automatic_zone_placement_"
    text = ",".join(f'{label}="{value}"' for label, value in found.items())
    return {"series": f"{prefix}{name}{{{text}}}", "values": values}


def scenario(differences: dict[str, str], **tests: object) -> dict[str, object]:
    """A test for `promtool` with these differences from what is healthy."""
    given = [series(*each) for each in (HEALTHY | differences).items() if each[1]]
    return {"interval": "1m", "input_series": given, **tests}


def firing(minute: int, alerts: str) -> dict[str, object]:
    """That these alerts fire at this minute, and no others."""
    expected = Multiset(labels(each) for each in alerts.split(", ") if each)
    return {
        "expr": 'count by (alertname, instance) (ALERTS{alertstate="firing"})',
        "eval_time": f"{minute}m",
        "exp_samples": [{"labels": each, "value": count} for each, count in expected.items()],
    }


def labels(alert: str) -> str:
    """Those of an alert, which is that of instance "a" if it is any instance's and none is given."""
    name, _, instance = alert.partition(" ")
    by_instance = "$labels.instance" in alerts()[name]["annotations"]["summary"]
    instance = instance or ("a" if by_instance else "")
    rest = f',instance="{instance}"' if instance else ""
    return f'{{alertname="{PREFIX}{name}"{rest}}}'


@cache
def groups() -> Any:
    """The groups of rules."""
    (rules,) = from_yaml((FILES / "alerts.yaml").read_text())
    return rules["groups"]


def alerts() -> dict[str, Any]:
    """The alerts, by their names without what these have in common."""
    return {
        each["alert"].removeprefix(PREFIX): each
        for group in groups()
        for each in group["rules"]
        if "alert" in each
    }


@unittest.skipUnless(HELM, NO_HELM)
class RulesTest(unittest.TestCase):
    @unittest.skipUnless(AVAILABLE, WHY_NOT)
    def test_every_metric_is_there(self) -> None:
        for group in groups():
            for rule in group["rules"]:
                with self.subTest(rule.get("alert") or rule["record"]):
                    recorded = {each["record"] for each in group["rules"] if "record" in each}
                    known = {metric for metric, _, _ in scraped()} | FOREIGN | recorded
                    self.assertLessEqual(metrics_in(rule["expr"]), known)

    @unittest.skipUnless(AVAILABLE, WHY_NOT)
    def test_every_value_of_a_label_is_there(self) -> None:
        for name, alert in alerts().items():
            for metric, label, value in values_in(alert["expr"]):
                if metric not in FOREIGN:
                    with self.subTest(name, metric=metric):
                        self.assertIn((metric, label, value), scraped())

    def test_every_alert_has_its_section(self) -> None:
        page = (ROOT / "docs" / "operating.md").read_text()
        base = rf"https://github\.com/[\w-]+/{NAME}/blob/v{re.escape(VERSION)}/docs/operating\.md"
        for alert in alerts().values():
            name = alert["alert"]
            with self.subTest(name):
                self.assertRegex(alert["annotations"]["runbook_url"], f"^{base}#{name.lower()}$")
                self.assertIn(f"\n### {name}\n", page)
        self.assertEqual(page.count("\n### "), len(alerts()))

    def test_the_patch_that_is_shown_is_for_the_alert_that_it_names(self) -> None:
        page = (ROOT / "docs" / "operating.md").read_text()
        ((number, name),) = re.findall(r"/rules/(\d+)/alert\n +value: (\w+)\n", page)
        self.assertEqual(groups()[0]["rules"][int(number)].get("alert"), name)

    def test_every_alert_has_a_severity(self) -> None:
        for name, alert in alerts().items():
            with self.subTest(name):
                self.assertIn(alert["labels"]["severity"], {"info", "warning"})


@unittest.skipUnless(HELM, NO_HELM)
@unittest.skipUnless(
    shutil.which("promtool"), "promtool (Debian package prometheus) is not on PATH"
)
class PromtoolTest(unittest.TestCase):
    def test_the_rules_are_valid(self) -> None:
        self.assertEqual(promtool("check", {"groups": groups()}), "")

    def test_what_fires_when(self) -> None:
        for what, (differences, expected) in CASES.items():
            with self.subTest(what):
                tests = [firing(minute, alerts) for minute, alerts in expected.items()]
                self.passes(scenario(differences, promql_expr_test=tests))

    def test_every_alert_fires_and_does_not(self) -> None:
        for name in alerts():
            with self.subTest(name):
                fires = [
                    {name in re.findall(r"\w+", alerts) for alerts in expected.values()}
                    for _, expected in CASES.values()
                ]
                self.assertIn({True, False}, fires)

    def test_what_they_say(self) -> None:
        found = [
            {
                "eval_time": f"{MINUTES}m",
                "alertname": f"{PREFIX}{name}",
                "exp_alerts": [
                    {
                        "exp_labels": given | alerts()[name]["labels"],
                        "exp_annotations": alerts()[name]["annotations"] | {"summary": summary},
                    }
                ],
            }
            for name, (given, summary) in SUMMARIES.items()
        ]
        self.passes(scenario(BROKEN, alert_rule_test=found))

    def passes(self, test: Mapping[str, object]) -> None:
        with tempfile.NamedTemporaryFile("w", suffix=".json") as rules:
            json.dump({"groups": groups()}, rules)
            rules.flush()
            document = {"rule_files": [rules.name], "evaluation_interval": "1m", "tests": [test]}
            self.assertEqual(promtool("test", document), "")


if __name__ == "__main__":
    unittest.main()
