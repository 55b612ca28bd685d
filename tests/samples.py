"""What a Prometheus would have scraped in the tests of the alerts: samples at odd times."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from itertools import product
from math import ceil, floor
from typing import NamedTuple

from lookup.lookups import OUTCOMES

# In seconds. No whole part of a minute, so that samples fall on ever other times of the rules'.
INTERVAL = 37
LONG_INTERVAL = 257

DAY = 86400

# What a series is at a minute; None where there is none.
Samples = Callable[[float], float | None]
Series = dict[str, Samples]


def always(value: float) -> Samples:
    return lambda minute: value


def never() -> Samples:
    return lambda minute: None


def steps(*counts: tuple[float, float]) -> Samples:
    """A counter: (minutes, increase a minute), and no increase from then on."""

    def count(minute: float) -> float:
        total = 0.0
        for minutes, increase in counts:
            total += increase * min(max(minute, 0), minutes)
            minute -= minutes
        return floor(total + 1e-6)

    return count


def events(*minutes: float) -> Samples:
    """A counter that increases by one at each of these minutes."""
    return lambda minute: sum(each <= minute for each in minutes)


def at(minute: float, count: int = 1) -> Samples:
    """A counter that increases once."""
    return events(*[minute] * count)


def each_hour(hours: Iterable[int], *minutes: float) -> Samples:
    """A counter that increases in these hours, by one at each of these minutes."""
    return events(*(60 * hour + minute for hour, minute in product(hours, minutes)))


def until(end: float, first: Samples, then: Samples) -> Samples:
    """The first until this minute, and then the other."""
    return lambda minute: first(minute) if minute < end else then(minute)


def appears(minute: float, samples: Samples) -> Samples:
    """Is not there before."""
    return until(minute, never(), samples)


def vanishes(minute: float, samples: Samples) -> Samples:
    """Is not there any more."""
    return until(minute, samples, never())


def clock(offset: float = 0) -> Samples:
    """The time, and so many seconds; minute 0 is second 0 to `promtool`."""
    return lambda minute: 60 * minute + offset


TARGET = {"instance": "a", "job": "j", "namespace": "n"}

PREFIX = "automatic_zone_placement_"

# Those that are not ours.
FAIL_OPEN = "apiserver_admission_webhook_fail_open_count"
OWN_WEBHOOK = f'{FAIL_OPEN}{{name="place-pod.automatic-zone-placement.svc"}}'
CALLED = "kube_mutatingwebhookconfiguration_webhook_clientconfig_service"
OTHERS = re.compile(r"apiserver_|kube_|kyverno_|certmanager_|process_|up\b")


def text_of(samples: Samples, minutes: float, interval: int) -> str:
    """The samples as `promtool` wants them."""
    values = [samples(second / 60) for second in range(0, ceil(60 * minutes) + interval, interval)]
    words, before = [], None
    for value in values:
        # A target that is gone is marked so once; what was never there is not.
        gone = "_" if before is None else "stale"
        words.append(gone if value is None else f"{value:g}" if value < 1e6 else f"{value:.0f}")
        before = value
    return " ".join(words)


def given(short: str) -> str:
    """A series' name as `promtool` wants it, with our prefix and the labels of a target."""
    name, _, labels = short.partition("{")
    found = TARGET | dict(re.findall(r'(\w+)="([^"]*)"', labels))
    text = ",".join(f'{label}="{value}"' for label, value in found.items())
    return f"{'' if OTHERS.match(name) else PREFIX}{name}{{{text}}}"


def lookups(outcome: str, asker: str = "webhook", instance: str = "a") -> str:
    return f'lookups_total{{outcome="{outcome}",asker="{asker}",instance="{instance}"}}'


def webhook(name: str, namespace: str) -> str:
    """That a configuration's webhook leads to a service in this namespace."""
    return f'{CALLED}{{webhook_name="{name}",service_namespace="{namespace}",instance="k"}}'


LIFE = 10 * DAY  # in minutes: longer than any case

# A lookup a second.
BUSY = steps((LIFE, 60))

# A service with everything that there is, of which a lookup a second is asked. The instance is "a"
# if none is given: "r" is relocation's, "k" kube-state-metrics' and the API server's.
HEALTHY: Series = {
    "build_info": always(1),
    **{lookups(outcome): always(0) for outcome in OUTCOMES},
    lookups("Success"): BUSY,
    lookups("Success", "relocation"): steps((LIFE, 6)),
    lookups("ResolverTimeout", "relocation"): always(0),
    'lookup_duration_seconds_bucket{le="0.001"}': BUSY,
    'lookup_duration_seconds_bucket{le="2.5"}': BUSY,
    'lookup_duration_seconds_bucket{le="5.0"}': BUSY,
    'lookup_duration_seconds_bucket{le="+Inf"}': BUSY,
    "lookup_duration_seconds_count": BUSY,
    "event_loop_late_seconds_total": lambda minute: 0.06 * minute,
    "dns_stale_answers_total": always(0),
    "subnets": always(9),
    "subnets_hash": always(281474976710655),
    "subnets_warnings": always(0),
    "subnets_gathered_timestamp_seconds": lambda minute: minute // 1440 * DAY,
    "example_table": always(0),
    'subnets_reloads_total{outcome="success"}': at(31),
    'subnets_reloads_total{outcome="failure"}': always(0),
    "log_lines_dropped_total": always(0),
    'reviews_total{outcome="Placed",reason=""}': BUSY,
    'reviews_total{outcome="Defect",reason="InternalError"}': always(0),
    "tls_certificate_expiry_timestamp_seconds": always(60 * DAY),
    "tls_reload_failures_total": always(0),
    'relocation_last_success_timestamp_seconds{instance="r"}': clock(),
    'relocation_waiting_seconds{instance="r",reason="budget"}': always(0),
    f'{OWN_WEBHOOK[:-1]},instance="k"}}': always(0),
    'up{instance="k"}': always(1),
    'process_start_time_seconds{instance="k"}': always(-LIFE),
    webhook("place-pod.automatic-zone-placement.svc", "n"): always(1),
    webhook("webhook.cert-manager.io", "cert-manager"): always(1),
    'kube_mutatingwebhookconfiguration_info{mutatingwebhookconfiguration="cert-manager-webhook",instance="k"}': (
        always(1)
    ),
    'kube_cronjob_created{cronjob="subnets",instance="k"}': always(0),
    'kube_cronjob_status_last_successful_time{cronjob="subnets",instance="k"}': clock(-600),
    'kube_cronjob_spec_suspend{cronjob="subnets",instance="k"}': always(0),
    'kube_deployment_spec_replicas{deployment="relocation",instance="k"}': always(1),
    'kube_deployment_status_replicas_available{deployment="relocation",instance="k"}': always(1),
    'kyverno_mutating_policy_results_total{policy_name="automatic-zone-placement",result="pass",instance="y"}': (
        BUSY
    ),
    'kyverno_mutating_policy_results_total{policy_name="automatic-zone-placement",result="error",instance="y"}': (
        always(0)
    ),
    'certmanager_certificate_expiration_timestamp_seconds{name="automatic-zone-placement-opa",instance="c"}': (
        always(60 * DAY)
    ),
}


def only(asker: str = "webhook", /, **outcomes: Samples) -> Series:
    """What differs if for Pods only these lookups are asked for, each of them answered at once."""
    durations = {name: always(0) for name in HEALTHY if name.startswith("lookup_duration")}
    silent = {lookups("Success"): always(0)}
    asked = {lookups(outcome, asker): samples for outcome, samples in outcomes.items()}
    return durations | silent | asked


# What counts those that take longer than 2.5 s.
SLOWER = (
    'lookup_duration_seconds_bucket{le="5.0"}',
    'lookup_duration_seconds_bucket{le="+Inf"}',
    "lookup_duration_seconds_count",
)


def slow(fast: Samples, all: Samples) -> Series:
    """What differs if so many lookups are fast, and the others take 4 s."""
    names = (
        'lookup_duration_seconds_bucket{le="0.001"}',
        'lookup_duration_seconds_bucket{le="2.5"}',
    )
    return dict.fromkeys(names, fast) | dict.fromkeys(SLOWER, all)


class Case(NamedTuple):
    """What differs from HEALTHY, and by minute the alerts that fire then; others never fire."""

    differences: Series
    expected: dict[int, str]

    @property
    def pause(self) -> int:
        """Minutes from one evaluation of the rules to the next: what takes days has fewer."""
        last = max(self.expected)
        return 1 if last <= 4 * 60 else 5 if last <= 26 * 60 else 120

    @property
    def interval(self) -> int:
        """Seconds from one sample to the next; more than five minutes would be gaps to Prometheus."""
        return INTERVAL if self.pause == 1 else LONG_INTERVAL


def without(*prefixes: str) -> Series:
    """What differs if there are no series with such names."""
    return {name: never() for name in HEALTHY if name.startswith(prefixes)}


def all_from(minute: float, series: Series) -> Series:
    return {name: appears(minute, samples) for name, samples in series.items()}
