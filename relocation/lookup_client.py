"""Asks the lookup service where names are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from contextlib import suppress
from http.client import HTTPException
from queue import Empty, SimpleQueue
from threading import Thread
from urllib.parse import SplitResult, quote

from common.kubernetes import exchange
from relocation.world import Location

AGENT = "automatic-zone-placement/relocation"

# What an annotation must be for the policies to ask for it; no other is asked for here either.
NAMES = re.compile(r"[A-Za-z0-9._,-]+")

# Seconds for a lookup. The service gives DNS one; a lookup that takes so long is worth none.
LOOKUP_TIMEOUT = 5.0

# Lookups side by side. While DNS is silent each takes a second.
LOOKUPS = 8


class LookupFailure(Exception):
    """The lookup service cannot be asked."""


def ask(url: SplitResult, asks: str) -> Location | str:
    """The lookup service's answer for an annotation, or a word that says why there is none.

    Raises `LookupFailure`.
    """
    try:
        reply = exchange(
            url,
            f"{url.path.rstrip('/') or '/lookup'}?fqdn={quote(asks)}",
            headers={"Accept": "application/json", "User-Agent": AGENT},
            timeout=LOOKUP_TIMEOUT,
        )
    except (OSError, HTTPException) as error:
        raise LookupFailure(f"{url.geturl()}: {error or type(error).__name__}") from None
    try:
        body = json.loads(reply.body)
        return Location.from_json(body) if reply.status == 200 else str(body["reason"])
    except (ValueError, RecursionError, TypeError, KeyError):
        return "InvalidAnswer"


def ask_all(url: SplitResult, asks: Iterable[str]) -> dict[str, Location | str]:
    """The answer for each annotation, or a word.

    Raises `LookupFailure` if the first lookup fails: if the service is down, one is
    enough to learn it.
    """
    names = set(asks)
    answers: dict[str, Location | str] = {
        each: "InvalidName" for each in names if not NAMES.fullmatch(each)
    }
    waiting: SimpleQueue[str] = SimpleQueue()
    for number, each in enumerate(sorted(names - answers.keys())):
        if number == 0:
            answers[each] = ask(url, each)
        else:
            waiting.put(each)

    def work() -> None:
        with suppress(Empty):
            while True:
                each = waiting.get_nowait()
                try:
                    answers[each] = ask(url, each)
                except LookupFailure:
                    answers[each] = "LookupFailure"

    # Daemons, unlike those of an executor: the process may end without them.
    threads = [Thread(target=work, daemon=True) for _ in range(min(LOOKUPS, waiting.qsize()))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers
