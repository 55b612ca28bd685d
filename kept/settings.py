"""The settings of kept decisions."""

from __future__ import annotations

import os
from dataclasses import dataclass

from common.kubernetes import Client
from common.settings import ApiServerSettings, InvalidSetting, setting
from kept.configmap import names_to_keep, path_of

# Seconds for a call to the API server that keeps decisions: a quarter of a megabyte at most.
KEEPING_TIMEOUT = 5.0


@dataclass(frozen=True)
class KeptSettings(ApiServerSettings):
    """Without a ConfigMap none are kept."""

    kept_decisions: str = setting(
        "", path_of, "a ConfigMap, as NAMESPACE/NAME, in which the API server finds decisions"
    )
    kept_names: tuple[str, ...] = setting(
        "", names_to_keep, "what is kept from the start: annotations, with spaces between them"
    )

    def client(self) -> Client | None:
        """Speaks to the API server that keeps decisions; None if none does. Raises `InvalidSetting`."""
        if not self.kept_decisions:
            return None
        try:
            environment = {**os.environ, "KUBERNETES_URL": self.kubernetes_url}
            return Client.from_environment(environment).with_timeout(KEEPING_TIMEOUT)
        except ValueError as error:
            raise InvalidSetting(f"KEPT_DECISIONS: {error}") from None
