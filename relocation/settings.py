"""The settings of relocation."""

from __future__ import annotations

from dataclasses import dataclass

from common.kubernetes import optional_url
from common.names import ANNOTATION
from common.settings import (
    ApiServerSettings,
    ServingSettings,
    ZoneSettings,
    seconds,
    setting,
    text,
    whole_number,
)
from relocation.landings import Rules

# Two relocators in a namespace are one at a time, whatever they are called.
LEASE = "automatic-zone-placement-relocation"

# The Lease's annotation with what the next leader must know.
HISTORY_ANNOTATION = f"{ANNOTATION}/history"


@dataclass(frozen=True)
class RelocationSettings(ServingSettings, ZoneSettings, ApiServerSettings):
    """The settings of relocation."""

    namespace: str = setting(
        "", text, f"the namespace of the Lease {LEASE}; by default that of this Pod"
    )
    lookup_url: str = setting(
        "http://automatic-zone-placement:8080/lookup", optional_url, "the lookup service"
    )
    relocate_interval: float = setting("60", seconds(0.1), "seconds from one round to the next")
    relocate_after: float = setting(
        "300", seconds(), "seconds for which a database must have been in its new zone"
    )
    relocate_backoff: float = setting(
        "600",
        seconds(1),
        "seconds for which a workload is left alone if its Pod landed elsewhere; doubled each time",
    )
    relocate_max_concurrent: int = setting(
        "3", whole_number(100), "workloads of which a Pod is on the move at once; 0 moves nobody"
    )

    def rules(self) -> Rules:
        """What of it the decision follows."""
        return Rules(
            node_label=self.node_label,
            after=self.relocate_after,
            backoff=self.relocate_backoff,
            longest_gap=2 * self.relocate_interval,
        )
