"""When the other alerts fire, and when not, by the sentences of docs/operating.md that say so."""

from __future__ import annotations

from tests.lookup_alerts import DNS_IS_AWAY
from tests.samples import (
    DAY,
    FAIL_OPEN,
    LIFE,
    OWN_WEBHOOK,
    Case,
    all_from,
    always,
    appears,
    at,
    clock,
    each_hour,
    events,
    lookups,
    never,
    only,
    slow,
    steps,
    until,
    vanishes,
    without,
)

GATHERED = 'kube_cronjob_status_last_successful_time{cronjob="subnets",instance="k"}'
SUSPENDED = 'kube_cronjob_spec_suspend{cronjob="subnets",instance="k"}'
LAST_ROUND = 'relocation_last_success_timestamp_seconds{instance="r"}'
WAITING = 'relocation_waiting_seconds{instance="r",reason="budget"}'
AVAILABLE = 'kube_deployment_status_replicas_available{deployment="relocation",instance="k"}'
REPLICAS = 'kube_deployment_spec_replicas{deployment="relocation",instance="k"}'
FAILED_OPEN = f'{OWN_WEBHOOK[:-1]},instance="k"}}'
KYVERNO_ERRORS = 'kyverno_mutating_policy_results_total{policy_name="automatic-zone-placement",result="error",instance="y"}'
OPA_EXPIRY = 'certmanager_certificate_expiration_timestamp_seconds{name="automatic-zone-placement-opa",instance="c"}'
EXPIRY = "tls_certificate_expiry_timestamp_seconds"


def failing_open(name: str) -> str:
    return f'{FAIL_OPEN}{{name="{name}",instance="k"}}'


# By the sentence that says it: what happens, and what fires.
COMPONENTS: dict[str, dict[str, Case]] = {
    # DNS and time.
    "It fires when for three minutes more than a twentieth of an instance's lookups, three or more in two minutes, has"
    " been answered with old addresses, and goes on for a quarter of an hour.": {
        "half an hour without DNS": Case(
            DNS_IS_AWAY,
            {63: ""}
            | dict.fromkeys(range(64, 73), "StaleAnswers")
            | dict.fromkeys(range(75, 82), "StaleAnswers, LookupsFail")
            | dict.fromkeys(range(84, 114), "LookupsFail")
            | {119: ""},
        ),
        "one of two DNS servers is away": Case(
            {"dns_stale_answers_total": steps((60, 0), (60, 6))},
            {60: "", 63: "", 65: "StaleAnswers", 120: "StaleAnswers", 136: "StaleAnswers", 139: ""},
        ),
        "a minute without DNS": Case(
            {"dns_stale_answers_total": steps((60, 0), (1, 60))}, {61: "", 62: "", 64: "", 90: ""}
        ),
        "few ask": Case(
            only(Success=each_hour(range(5), *range(3, 60, 4)))
            | {
                "lookup_duration_seconds_count": each_hour(range(5), *range(3, 60, 4)),
                "dns_stale_answers_total": each_hour([1], *range(3, 60, 4)),
            },
            {70: "", 90: "", 110: ""},
        ),
    },
    "It fires when for five minutes more than a hundredth of an instance's lookups of the last half hour, three or"
    " more, have taken longer than 2.5 s.": {
        "each fiftieth is slow": Case(
            slow(steps((60, 0), (60, 98)), steps((60, 0), (60, 100))),
            {61: "", 70: "Slow", 120: "Slow", 152: ""},
        ),
        "each takes a second": Case(
            {'lookup_duration_seconds_bucket{le="0.001"}': always(0)}, {60: ""}
        ),
        "each hundredth is slow": Case(
            slow(steps((60, 0), (60, 1000)), steps((60, 0), (60, 1010))), {70: "", 90: "", 120: ""}
        ),
        "three slow ones, and then no more": Case(
            slow(steps((60, 0), (60, 100)), steps((60, 0), (1, 103), (59, 100))),
            {61: "", 62: "", 65: "", 70: ""},
        ),
        "two slow ones": Case(slow(always(0), at(60.8, 2)), {61: "", 68: "", 90: ""}),
    },
    "It fires when for five minutes an instance has not got to run for a quarter of the time.": {
        "it is stopped for 4 of every 6 s": Case(
            {"event_loop_late_seconds_total": steps((60, 0), (30, 40))},
            {62: "", 68: "Hangs", 90: "Hangs", 96: ""},
        ),
        "it is stopped for a minute": Case(
            {"event_loop_late_seconds_total": at(60.4, 60)}, {61: "", 65: "", 70: ""}
        ),
    },
    "It fires when in the last hour there was one.": {
        "a lookup": Case(
            {lookups("InternalError", "person"): at(60.3)},
            {60: "", 62: "Defect", 119: "Defect", 122: ""},
        ),
        "a review": Case(
            {'reviews_total{outcome="Defect",reason="InternalError"}': at(60.3)},
            {60: "", 62: "Defect", 119: "Defect", 122: ""},
        ),
    },
    # The table and the log.
    "It fires when for a quarter of an hour the table has been the example.": {
        "somebody tries it": Case(
            {"example_table": until(12, always(1), always(0))}, {12: "", 16: "", 60: ""}
        ),
        "the example stays": Case(
            {"example_table": always(1), "subnets_warnings": always(1)},
            {14: "", 16: "ExampleTable"},
        ),
    },
    "It fires when the changed table could not be used for ten minutes.": {
        "a file that is being written": Case(
            {'subnets_reloads_total{outcome="failure"}': at(60.2)}, {61: "", 70: "", 72: "", 90: ""}
        ),
        "a file that cannot be used": Case(
            {'subnets_reloads_total{outcome="failure"}': steps((60, 0), (60, 1))},
            {69: "", 73: "TableNotReloaded", 120: "TableNotReloaded", 132: ""},
        ),
    },
    "It fires when for a quarter of an hour the instances have had different tables.": {
        "one was left behind": Case(
            {
                'subnets_hash{instance="b"}': until(
                    60,
                    always(281474976710655),
                    until(100, always(281474976710654), always(281474976710655)),
                )
            },
            {70: "", 78: "TablesDiffer", 99: "TablesDiffer", 102: ""},
        ),
        "the kubelet takes its time": Case(
            {
                'subnets_hash{instance="b"}': until(
                    60, always(281474976710655), until(70, always(7), always(281474976710655))
                )
            },
            {65: "", 78: ""},
        ),
    },
    "It fires when for an hour the table has been usable, but looked wrong.": {
        "two zones have one name": Case(
            {"subnets_warnings": until(30, always(0), always(2))},
            {89: "", 93: "TableWarnings"},
        ),
        "it is corrected": Case(
            {"subnets_warnings": until(50, always(1), always(0))}, {49: "", 65: ""}
        ),
    },
    "It fires when for six hours the gathering job has not succeeded, or the table that it made is two days old.": {
        "it fails": Case(
            {GATHERED: until(60, clock(-600), always(3000))},
            {400: "", 435: "GatheringFails", 600: "GatheringFails"},
        ),
        "it never succeeded": Case({GATHERED: never()}, {370: "", 385: "GatheringFails"}),
        "it succeeds again": Case(
            {GATHERED: until(60, clock(-600), until(500, always(3000), clock(-600)))},
            {435: "GatheringFails", 499: "GatheringFails", 510: ""},
        ),
        "it is suspended": Case(
            {GATHERED: until(60, clock(-600), always(3000)), SUSPENDED: always(1)},
            {435: "", 600: ""},
        ),
        "somebody else's": Case(
            {
                'kube_cronjob_created{cronjob="subnets",namespace="m",instance="k"}': always(0),
                'kube_cronjob_spec_suspend{cronjob="subnets",namespace="m",instance="k"}': always(
                    0
                ),
            },
            {435: "", 600: ""},
        ),
        "kube-state-metrics is not there": Case(
            without("kube")
            | {"subnets_gathered_timestamp_seconds": until(1440, clock(), always(DAY))},
            {4200: "", 4560: "GatheringFails"},
        ),
    },
    "It fires when in the last hour lines were lost.": {
        "nobody reads the log for a while": Case(
            {"log_lines_dropped_total": at(60.3, 9)},
            {60: "", 62: "LogLinesDropped", 119: "LogLinesDropped", 122: ""},
        ),
        "nor that of relocation": Case(
            {'log_lines_dropped_total{instance="r"}': appears(10, at(60.3, 9))},
            {60: "", 62: "LogLinesDropped r", 122: ""},
        ),
    },
    # Certificates.
    "It fires when for an hour the certificate in use has been about to expire within a week.": {
        "it is renewed in time": Case(
            {EXPIRY: until(110, always(7 * DAY + 7200), always(60 * DAY))},
            {60: "", 110: ""},
        ),
        "it is renewed late": Case(
            {EXPIRY: until(120, always(7 * DAY), always(60 * DAY))},
            {59: "", 62: "CertificateExpires", 119: "CertificateExpires", 122: ""},
        ),
        "it has expired": Case({EXPIRY: always(0)}, {59: "", 62: "CertificateExpires"}),
    },
    "It fires when a changed certificate could not be used for ten minutes.": {
        "it is being written": Case(
            {"tls_reload_failures_total": at(60.3)}, {61: "", 70: "", 72: "", 90: ""}
        ),
        "it cannot be used": Case(
            {"tls_reload_failures_total": steps((60, 0), (60, 3))},
            {69: "", 73: "CertificateNotReloaded", 120: "CertificateNotReloaded", 132: ""},
        ),
    },
    "It fires when for an hour OPA's certificate has been about to expire within a week.": {
        "cert-manager does not renew it": Case(
            {OPA_EXPIRY: until(120, always(7 * DAY), always(60 * DAY))},
            {59: "", 62: "OpaCertificateExpires", 119: "OpaCertificateExpires", 122: ""},
        ),
        "somebody else's": Case({OPA_EXPIRY.replace("-opa", "-nobody"): always(0)}, {62: ""}),
    },
    # Relocation, the time of whose last round is counted from the beginning here.
    "It fires when in ten minutes no round has been younger than a quarter of an hour, or its Deployment has had no"
    " Pod that is available.": {
        "it hangs": Case(
            {LAST_ROUND: until(60, clock(), always(3600))},
            {70: "", 84: "", 87: "RelocationStopped"},
        ),
        "it never succeeds": Case(
            {LAST_ROUND: appears(60, always(0))},
            {60: "", 69: "", 73: "RelocationStopped"},
        ),
        "it is replaced": Case(
            {
                LAST_ROUND: vanishes(60, clock()),
                LAST_ROUND.replace('"r"', '"s"'): appears(61, until(63, always(0), clock())),
            },
            {61: "", 62: "", 80: "", 90: "", 150: ""},
        ),
        "another one stands by": Case({LAST_ROUND.replace('"r"', '"s"'): always(0)}, {60: ""}),
        "it is gone": Case(
            {LAST_ROUND: vanishes(60, clock())},
            {
                74: "",
                87: "RelocationStopped",
                200: "RelocationStopped",
                1490: "RelocationStopped",
                1505: "",
            },
        ),
        "it never came up": Case(
            {LAST_ROUND: never(), AVAILABLE: always(0)},
            {9: "", 12: "RelocationStopped", 60: "RelocationStopped"},
        ),
        "it is to have no Pod": Case(
            {LAST_ROUND: never(), AVAILABLE: always(0), REPLICAS: always(0)}, {12: "", 60: ""}
        ),
    },
    "It fires when a Pod that is to be relocated has waited for four hours.": {
        "a budget": Case(
            {WAITING: lambda minute: max(0, 60 * (minute - 60))},
            {299: "", 315: "RelocationWaits", 400: "RelocationWaits"},
        ),
        "it goes in the end": Case(
            {WAITING: lambda minute: max(0, 60 * (minute - 60)) if minute < 290 else 0},
            {289: "", 315: ""},
        ),
    },
    # The engines.
    "It fires when in the last hour the API server called in vain three times or more, or in four of the last six hours"
    " once.": {
        "calls in vain": Case(
            {FAILED_OPEN: steps((60, 0), (10, 1))},
            {60: "", 65: "FailsOpen", 120: "FailsOpen", 132: ""},
        ),
        "for the first time": Case(
            {FAILED_OPEN: appears(60, always(5))},
            {60: "", 62: "FailsOpen", 119: "FailsOpen", 127: ""},
        ),
        "for the first time, and again": Case(
            {FAILED_OPEN: appears(60, until(70, always(1), always(3)))},
            {62: "", 72: "FailsOpen", 119: "FailsOpen", 132: ""},
        ),
        "once an hour": Case(
            {FAILED_OPEN: each_hour(range(10), 21.7)},
            {180: "", 241: "FailsOpen", 600: "FailsOpen", 840: ""},
        ),
        "an API server that has just begun": Case(
            all_from(60, {name: always(0) for name in (FAILED_OPEN, 'up{instance="k"}')})
            | {
                FAILED_OPEN: appears(61, always(4)),
                'up{instance="k"}': appears(60, always(1)),
                'process_start_time_seconds{instance="k"}': appears(60, always(3500)),
            },
            {60: "", 62: "FailsOpen", 117: "FailsOpen", 127: ""},
        ),
        "Kyverno is called in vain": Case(
            {
                failing_open("mutate.kyverno.svc-ignore"): steps((60, 0), (10, 1)),
                failing_open(
                    "mpol.validate.kyverno.svc-ignore-finegrained-automatic-zone-placement"
                ): (steps((90, 0), (10, 1))),
            },
            {65: "FailsOpen", 110: "FailsOpen, FailsOpen", 140: "FailsOpen", 165: ""},
        ),
        "OPA is called in vain": Case(
            {failing_open("opa.automatic-zone-placement.svc"): steps((60, 0), (10, 1))},
            {65: "FailsOpen", 132: ""},
        ),
        "twice": Case({FAILED_OPEN: events(60.2, 60.9)}, {61: "", 62: "", 70: ""}),
        "twice, for the first time": Case(
            {FAILED_OPEN: appears(60, always(2))}, {61: "", 62: "", 70: ""}
        ),
        "Prometheus has just begun": Case(
            {
                FAILED_OPEN: appears(60, always(500)),
                'up{instance="k"}': appears(60, always(1)),
                'process_start_time_seconds{instance="k"}': appears(60, always(-LIFE)),
            },
            {61: "", 90: "", 119: "", 121: ""},
        ),
        "others are called in vain": Case(
            {
                failing_open("mutate.kyverno.svc-fail"): steps((60, 0), (10, 100)),
                failing_open("webhook.example.com"): steps((60, 0), (10, 100)),
            },
            {65: "", 120: ""},
        ),
    },
    "It fires when for two minutes the decisions that are kept have been older than two minutes.": {
        "they cannot be written": Case(
            {"kept_written_timestamp_seconds": until(60, clock(), always(3600))},
            {63: "", 65: "KeptNotWritten", 90: "KeptNotWritten"},
        ),
        "another replica writes them": Case(
            {
                "kept_written_timestamp_seconds": until(60, clock(), always(3600)),
                'kept_written_timestamp_seconds{instance="b"}': clock(-30),
            },
            {65: "", 90: ""},
        ),
        "it has just begun": Case(
            {"kept_written_timestamp_seconds": appears(60, until(61, always(0), clock()))},
            {61: "", 63: "", 70: ""},
        ),
    },
    "It fires when for half an hour more than one lookup in a hundred seconds was for what is kept.": {
        "the policy is gone": Case(
            {"kept_unheeded_total": steps((60, 0), (60, 6))},
            {88: "", 97: "KeptNotUsed", 120: "KeptNotUsed", 138: ""},
        ),
        "names are new": Case({"kept_unheeded_total": at(60.3, 5)}, {70: "", 100: ""}),
    },
    "It fires when in the last hour three errors of the MutatingPolicy were counted.": {
        "the service is down": Case(
            {KYVERNO_ERRORS: steps((60, 0), (10, 1))},
            {60: "", 65: "KyvernoFails", 120: "KyvernoFails", 132: ""},
        ),
        "for the first time": Case(
            {KYVERNO_ERRORS: appears(60, always(4)), 'up{instance="y"}': always(1)},
            {60: "", 62: "KyvernoFails", 119: "KyvernoFails", 127: ""},
        ),
        "Prometheus has just begun": Case(
            {
                KYVERNO_ERRORS: appears(60, always(500)),
                'up{instance="y"}': appears(60, always(1)),
                'process_start_time_seconds{instance="y"}': appears(60, always(-LIFE)),
            },
            {62: "", 90: ""},
        ),
        "two": Case({KYVERNO_ERRORS: events(60.2, 60.9)}, {62: "", 90: ""}),
    },
}
