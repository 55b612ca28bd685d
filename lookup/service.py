"""The lookups as the settings have them, with a table that may be replaced while they go on."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from common import log
from common.errors import shown
from common.metrics import Counter, Family
from lookup.lookups import Lookups
from lookup.placement import Placement
from lookup.resolver import Resolver
from lookup.settings import LookupSettings
from lookup.table import InvalidSubnets, SubnetTable


class Service:
    """The lookups, and the table that they are answered from."""

    def __init__(self, settings: LookupSettings, table: SubnetTable) -> None:
        self.settings = settings
        resolver = Resolver(
            timeout=settings.dns_timeout,
            cache_ttl=settings.dns_cache_ttl,
            cache_maxsize=settings.dns_cache_maxsize,
            stale_ttl=settings.dns_stale_ttl,
            allowed_domains=settings.allowed_domains,
        )
        self.lookups = Lookups(resolver, self._placement(table))
        self.reloads = Counter(
            "subnets_reloads_total", "Times that SUBNETS_FILE was read again.", "outcome"
        )
        self.reloads.begin(("success",), ("failure",))
        self._problems: list[str] = []

    def _placement(self, table: SubnetTable) -> Placement:
        return Placement(table, self.settings.node_label, self.settings.avoid_zones)

    @property
    def table(self) -> SubnetTable:
        return self.lookups.placement.table

    def metrics(self) -> Iterator[Family]:
        """All families, in the order they are shown."""
        yield from self.lookups.metrics()
        yield self.reloads

    def warnings(self) -> Iterator[str]:
        """What is usable but looks wrong about the table, and about the settings if this is it."""
        for zone in self.settings.avoid_zones:
            if zone not in self.table.zones:
                yield f"AVOID_ZONES has {shown(zone)}, which is no zone in the table"
        yield from self.table.warnings

    def reload(self, read: SubnetTable | InvalidSubnets) -> None:
        """Goes on with this table, or else with the one of before, saying once what is wrong."""
        if isinstance(read, SubnetTable):
            self.reloads.increment("success")
            self.lookups.use(self._placement(read))
            self._problems = []
            logging.info("read %s again: %d subnets", self.settings.subnets_file, len(read))
            log.warn(self.warnings())
            return
        self.reloads.increment("failure")
        if read.problems != self._problems:
            self._problems = read.problems
            for problem in read.problems:
                logging.error("%s", problem)
            logging.error("the %d subnets of before stay in use", len(self.table))
