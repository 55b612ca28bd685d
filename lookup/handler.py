"""Lookups over HTTP: the query, who asks, the answer, a line in the log."""

from __future__ import annotations

import json
import logging
import re
from time import perf_counter
from urllib.parse import parse_qsl

from common.errors import InvalidRequest, ServiceError, shown
from common.handler import Response, error_response
from common.names import NAMES_PATTERN, RELOCATION_AGENT, VERSION
from common.probes import ProbesHandler, Status
from lookup.lookups import Lookups, Outcome, names_in

# By path, what is answered there.
ENDPOINTS = {
    "/": "this list",
    "/lookup": "in which zone the names are: /lookup?fqdn=NAME[,NAME...]",
    "/healthz": "whether the process works",
    "/readyz": "whether it is ready for requests",
    "/metrics": "metrics for Prometheus",
}

# How those begin, in lower case, who are at a keyboard, by what they call themselves.
PERSONS = ("curl/", "wget/", "mozilla/")

# What nearly every query is: nothing in it is encoded.
_PLAIN_QUERY = re.compile(rf"fqdn=({NAMES_PATTERN})")


def value_in(query: str) -> str:
    """The value of a query string that is just `fqdn=VALUE`. Raises `InvalidRequest`."""
    plain = _PLAIN_QUERY.fullmatch(query)
    if plain:
        return plain[1]
    try:
        fields = parse_qsl(query, keep_blank_values=True, strict_parsing=True, errors="strict")
    except ValueError:
        fields = []
    match fields:
        case [("fqdn", value)] if value:
            return value
    raise InvalidRequest(f"the query {shown(query)} is not fqdn=NAME and nothing else")


def asker_of(agent: str) -> str:
    """Who asks, to the metrics, given what they call themselves in lower case."""
    if agent.startswith(PERSONS):
        return "person"
    return "relocation" if agent.startswith(RELOCATION_AGENT) else "engine"


class LookupHandler(ProbesHandler):
    """Answers lookups, besides probes and scrapes."""

    endpoints = ENDPOINTS

    def __init__(self, lookups: Lookups, status: Status, head: bytes) -> None:
        super().__init__(status, head)
        self.lookups = lookups

    async def do_GET(self) -> Response:
        path = self.path.partition("?")[0]
        if path == "/lookup":
            return await self.lookup()
        if path == "/":
            return Response(200, json.dumps({"version": VERSION, "endpoints": ENDPOINTS}).encode())
        return await super().do_GET()

    async def lookup(self) -> Response:
        """Answers a lookup, also by its line in the log."""
        started, asker = perf_counter(), asker_of(self.agent)
        asked = self.take_query()
        try:
            asked = value_in(asked)
            outcome = await self.lookups.find(names_in(asked), asker)
        except InvalidRequest as error:
            outcome = error
            self.lookups.count(outcome, asker)
        duration = 1000 * (perf_counter() - started)
        logging.info("lookup %s %s ms=%.2f", shown(asked), _summary(outcome), duration)
        return _response(outcome)


def _summary(outcome: Outcome) -> str:
    return f"reason={outcome.reason}" if isinstance(outcome, ServiceError) else outcome.summary


def _response(outcome: Outcome) -> Response:
    if isinstance(outcome, ServiceError):
        return error_response(outcome)
    return Response(200, outcome.body)
