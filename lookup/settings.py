"""The settings of lookups."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from common.errors import ServiceError, shown
from common.settings import (
    ZoneSettings,
    comma_separated,
    seconds,
    setting,
    text,
    whole_number,
)
from lookup.host import parse_name


def _domain(value: str) -> str:
    """A domain under which names are allowed; a dot before it or behind it is let pass."""
    domain = value.strip(".").lower()
    with suppress(ServiceError):
        parse_name(f"x.{domain}")
        return domain
    raise ValueError(f"a list of domains: {shown(value)} is none")


def _zone(value: str) -> str:
    if value:
        return value
    raise ValueError("a list of zones: one of them is empty")


@dataclass(frozen=True)
class LookupSettings(ZoneSettings):
    """Where the table is, what is never said, and what DNS has."""

    subnets_file: str = setting("", text, "a JSON file that replaces SUBNETS_DATA")
    avoid_zones: tuple[str, ...] = setting(
        "",
        comma_separated(_zone),
        "zones or zone ids, with commas between them, in which no Pod is to be placed",
    )
    allowed_domains: tuple[str, ...] = setting(
        "",
        comma_separated(_domain),
        "domains, with commas between them; other names are refused, and not asked for",
    )
    dns_timeout: float = setting(
        "1", seconds(0.01, 10), "seconds that a lookup waits for DNS; less than the policy's 3 s"
    )
    dns_cache_ttl: float = setting("5", seconds(), "seconds that an address is kept; 0 keeps none")
    dns_cache_maxsize: int = setting("4096", whole_number(1_000_000), "names that are kept")
    dns_stale_ttl: float = setting(
        "300", seconds(), "seconds for which an old address may serve while DNS fails"
    )
