"""When the alerts about lookups fire, and when not, by the sentences of docs/operating.md that say so."""

from __future__ import annotations

from tests.samples import (
    HEALTHY,
    LIFE,
    Case,
    Series,
    all_from,
    always,
    appears,
    at,
    each_hour,
    events,
    lookups,
    never,
    only,
    steps,
    until,
    vanishes,
    webhook,
    without,
)


def a_fifth(reason: str) -> Case:
    """A fifth of the lookups end so for an hour."""
    defect = {"InternalError": "Defect"}.get(reason, "")
    return Case(
        {
            lookups("Success"): steps((60, 60), (60, 48), (LIFE, 60)),
            lookups(reason): steps((60, 0), (60, 12)),
        },
        {62: defect, 90: f"LookupsFail, {defect}", 120: f"LookupsFail, {defect}", 182: ""},
    )


def three_of_five(reason: str) -> Case:
    """Of five lookups a minute, three end so for an hour."""
    return Case(
        only(Success=steps((LIFE, 2)), **{reason: steps((60, 0), (60, 3))}),
        {62: "", 105: "", 180: "NotPlaced", 300: ""},
    )


# Half an hour without DNS: old answers for five minutes, then none.
DNS_IS_AWAY: Series = {
    lookups("Success"): steps((65, 60), (25, 0), (LIFE, 60)),
    lookups("ResolverTimeout"): steps((65, 0), (25, 60)),
    "dns_stale_answers_total": steps((60, 0), (5, 60)),
}

KYVERNO = webhook("mutate.kyverno.svc-ignore", "kyverno")
MUTATING_POLICY = webhook(
    "mpol.validate.kyverno.svc-ignore-finegrained-automatic-zone-placement", "kyverno"
)
OWN = webhook("place-pod.automatic-zone-placement.svc", "n")
NO_WEBHOOK = without("tls_", "reviews_") | {OWN: never()}

# By the sentence that says it: what happens, and what fires.
LOOKUPS: dict[str, dict[str, Case]] = {
    "None fires when all is well, whatever is not installed.": {
        "all is well": Case({}, {1: "", 20: "", 60: "", 400: ""}),
        "nobody asks for an hour": Case(only(), {60: ""}),
        "the service alone": Case(
            NO_WEBHOOK
            | without("relocation", "apiserver", "kube", "kyverno", "certmanager", "up", "process"),
            {20: ""},
        ),
        "all begins late": Case(all_from(5, HEALTHY), {4: "", 20: "", 120: ""}),
        "the counters begin anew": Case(
            {lookups("ResolverTimeout"): until(60, always(2), always(0))}, {62: "", 90: ""}
        ),
    },
    "It fires when for ten minutes Prometheus has scraped no instance.": {
        "it is gone": Case(
            {"build_info": until(30, always(1), appears(49, always(1)))},
            {30: "", 40: "", 42: "Absent", 48: "Absent", 51: ""},
        ),
        "it is scaled down and up": Case(
            {"build_info": until(31, always(1), appears(38, always(1)))}, {37: "", 60: ""}
        ),
        "it comes late": Case(
            {"build_info": appears(30, always(1))}, {9: "", 12: "Absent", 32: ""}
        ),
    },
    # Lookups that fail.
    "It fires when for five minutes more than a tenth of an instance's lookups of the last half hour, three or more,"
    " have failed.": {
        **{
            f"a fifth ends with {reason}": a_fifth(reason)
            for reason in ("ResolverFailure", "ResolverTimeout", "Overloaded", "InternalError")
        },
        "three of three, in a few minutes": Case(
            only(ResolverTimeout=events(60.1, 62.3, 65.9)),
            {65: "", 70: "", 73: "LookupsFail", 89: "LookupsFail", 92: "", 100: "NoAnswers"},
        ),
        "one of two instances": Case(
            {
                lookups("Success", instance="b"): always(7),
                lookups("Overloaded", instance="b"): steps((60, 0), (60, 1)),
            },
            {62: "", 70: "LookupsFail b", 120: "LookupsFail b", 151: ""},
        ),
        "relocation's lookups succeed": Case(
            only(ResolverTimeout=steps((60, 0), (60, 1))),
            {62: "", 70: "LookupsFail", 100: "LookupsFail, NoAnswers"},
        ),
        "old answers that end": Case(
            DNS_IS_AWAY, {67: "StaleAnswers", 75: "StaleAnswers, LookupsFail", 118: ""}
        ),
    },
    "It stays quiet when two fail, or who fails is no Pod.": {
        "two of two": Case(only(ResolverTimeout=events(60.1, 60.7)), {61: "", 65: ""}),
        "two of two, on another day": Case(
            only("engine", ResolverFailure=events(60.95, 61.05)), {61: "", 70: ""}
        ),
        "two of two, at once": Case(only(Overloaded=at(63.3, 2)), {64: "", 70: ""}),
        "two of two, after a start": Case(
            all_from(60, HEALTHY | only(ResolverTimeout=at(60.9, 2))),
            {10: "Absent", 59: "Absent", 61: "", 67: "", 90: ""},
        ),
        "relocation's fail, and a person's": Case(
            {
                lookups("ResolverTimeout", "relocation"): steps((60, 0), (60, 60)),
                lookups("ResolverTimeout", "person"): steps((60, 0), (60, 60)),
            },
            {70: ""},
        ),
        "some fail, and then no more": Case(
            only(Success=steps((60, 0), (60, 10)), ResolverTimeout=at(60, 4)),
            {61: "", 63: "", 70: ""},
        ),
        "DNS is away for a minute": Case(
            {
                lookups("Success"): steps((60, 60), (1, 30), (LIFE, 60)),
                lookups("ResolverTimeout"): steps((60, 0), (1, 30)),
                "dns_stale_answers_total": steps((60, 0), (1, 30)),
            },
            {61: "", 64: "", 67: "", 90: ""},
        ),
    },
    "It fires when in four of the last six hours a lookup has failed, and in all more than a tenth.": {
        "half of four an hour": Case(
            only(
                Success=each_hour(range(24), 7.3, 33.1),
                ResolverTimeout=each_hour(range(10), 21.7, 48.9),
            ),
            {180: "", 255: "SomeLookupsFail", 600: "SomeLookupsFail", 840: ""},
        ),
        "half of two an hour": Case(
            only(
                "engine", Success=each_hour(range(10), 7.3), Overloaded=each_hour(range(10), 21.7)
            ),
            {180: "", 255: "SomeLookupsFail", 600: "SomeLookupsFail"},
        ),
        "one of a thousand, each hour": Case(
            {lookups("ResolverTimeout"): each_hour(range(10), 21.7)}, {300: "", 600: ""}
        ),
        "an outage": Case(
            only(
                Success=steps((60, 1), (60, 0), (LIFE, 1)), ResolverFailure=steps((60, 0), (60, 1))
            ),
            {90: "LookupsFail", 300: "", 420: ""},
        ),
    },
    "It fires when for half an hour less than a twentieth of a day's lookups has led to a zone, and three or more"
    " have failed or were in no subnet, or five or more led nowhere.": {
        "of three a day, all fail": Case(
            only(ResolverTimeout=events(10.2, 60.9, 110.4), NameNotFound=events(20.1)),
            {112: "", 138: "", 145: "NoAnswers"},
        ),
        "all failed until one did not": Case(
            only(ResolverTimeout=events(10.2, 50.9, 90.4), Success=events(140.3)),
            {92: "", 118: "", 125: "NoAnswers", 139: "NoAnswers", 142: ""},
        ),
        "the table lacks what is asked for": Case(
            only(ZoneNotFound=steps((LIFE, 1))),
            {20: "", 30: "", 40: "NoAnswers, NotPlaced"},
        ),
        "five names in a day, and none exists": Case(
            only(NameNotFound=events(12, 186, 378, 552, 744)),
            {740: "", 770: "", 790: "NoAnswers", 1400: "NoAnswers", 1480: ""},
        ),
    },
    "It stays quiet where of three Pods a day one or two fail.": {
        "one of three": Case(
            only(Success=events(10.1, 100.2), ResolverTimeout=events(60.3)), {65: ""}
        ),
        "two of three": Case(
            only(Success=events(10.1), ResolverTimeout=events(60.3, 60.8)),
            {62: "", 100: ""},
        ),
        "two of two, and a few mistakes": Case(
            only(ResolverTimeout=events(60.3, 90.8), NameNotFound=events(5.3, 17.9)),
            {62: "", 130: ""},
        ),
    },
    "It fires when for half an hour more than a quarter of the lookups of the last six hours, five or more, has led to"
    " no placement though nothing failed.": {
        **{
            f"three of five end with {reason}": three_of_five(reason)
            for reason in (
                "InvalidRequest",
                "InvalidName",
                "NameNotAllowed",
                "NameNotFound",
                "ZoneNotFound",
                "ZoneAmbiguous",
                "ZoneAvoided",
            )
        },
        "AVOID_ZONES has all zones": Case(
            only(ZoneAvoided=steps((60, 0), (LIFE, 1))),
            {62: "", 90: "", 100: "NoAnswers, NotPlaced"},
        ),
        "a private zone is gone, but relocation's is not": Case(
            {
                lookups("Success"): steps((60, 60)),
                lookups("NameNotFound"): steps((60, 0), (LIFE, 60)),
            },
            {90: "", 115: "NotPlaced", 400: "NotPlaced"},
        ),
        "a tenth is in no subnet": Case(
            {lookups("ZoneNotFound"): steps((LIFE, 6))}, {20: "", 60: "", 300: ""}
        ),
        "four are misspelt": Case(
            only(InvalidName=at(60.5, 2), NameNotFound=events(61.2, 70)), {75: "", 120: ""}
        ),
    },
    # Nobody asks.
    "It fires when the webhook is on, and for a quarter of an hour no MutatingWebhookConfiguration has led to its"
    " namespace.": {
        "the configuration is deleted, and made anew": Case(
            {OWN: until(60, always(1), appears(100, always(1)))},
            {70: "", 78: "NobodyAsks", 99: "NobodyAsks", 102: ""},
        ),
        "there never was one": Case({OWN: never()}, {14: "", 17: "NobodyAsks"}),
        "OPA is used": Case(
            {OWN: never(), webhook("opa.automatic-zone-placement.svc", "n"): always(1)}, {90: ""}
        ),
        "it is replaced": Case(
            {OWN: until(60, always(1), appears(70, always(1)))}, {65: "", 78: ""}
        ),
        "kube-state-metrics is gone": Case(
            {
                name: vanishes(60, samples)
                for name, samples in HEALTHY.items()
                if name.startswith("kube_")
            },
            {70: "", 90: ""},
        ),
    },
    "It fires, for a day, when the webhook that led here, Kyverno's for its policies among them, has been gone for a"
    " quarter of an hour.": {
        "the policy is deleted": Case(
            NO_WEBHOOK | {MUTATING_POLICY: vanishes(60, always(1))},
            {70: "", 85: "NobodyAsks", 1490: "NobodyAsks", 1510: ""},
        ),
        "one policy follows the other": Case(
            NO_WEBHOOK
            | {KYVERNO: vanishes(60, always(1)), MUTATING_POLICY: appears(50, always(1))},
            {78: ""},
        ),
        "another policy of Kyverno's is deleted": Case(
            {webhook("mutate.kyverno.svc-fail", "kyverno"): vanishes(60, always(1))},
            {78: ""},
        ),
    },
    "It fires when for three days nobody has asked, though more than twenty lookups came in the four days before (unless"
    " decisions are kept, by which Pods are placed without a call).": {
        "silence": Case(
            without("kube") | only(Success=steps((4 * 1440, 0.02), (3.5 * 1440, 0), (LIFE, 0.02))),
            {
                6 * 1440: "",
                7 * 1440 - 120: "",
                7 * 1440 + 240: "NobodyAsks",
                10680: "NobodyAsks",
                11040: "",
            },
        ),
        "a weekend": Case(
            without("kube")
            | only("engine", Success=steps((5 * 1440, 0.02), (63 * 60, 0), (LIFE, 0.02))),
            {7 * 1440: "", 10920: "", 8 * 1440: ""},
        ),
        "decisions are kept": Case(
            without("kube") | only(Success=steps((4 * 1440, 0.02))) | {"kept_names": always(12)},
            {6 * 1440: "", 8 * 1440: ""},
        ),
        "few ask": Case(without("kube") | only(Success=steps((4 * 1440, 0.003))), {8 * 1440: ""}),
    },
}
