"""Asks the lookup service where names are."""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from http.client import HTTPException
from threading import Thread
from urllib.parse import SplitResult, quote

from common.kubernetes import exchange
from common.names import NAMES_PATTERN, RELOCATION_AGENT
from relocation.world import Destination

# What an annotation must be for the policies to ask for it; no other is asked for here either.
NAMES = re.compile(NAMES_PATTERN)

# Seconds for a lookup: more than the service's DNS_TIMEOUT may be, so that a name of which DNS says
# nothing has an answer too, that it has none.
LOOKUP_TIMEOUT = 15.0

# Lookups side by side. While DNS is silent each takes DNS_TIMEOUT.
LOOKUPS = 8


class LookupFailure(Exception):
    """The lookup service cannot be asked."""


def ask(url: SplitResult, asks: str) -> Destination | str:
    """The lookup service's answer for an annotation, or a word that says why there is none.

    Raises `LookupFailure`.
    """
    try:
        reply = exchange(
            url,
            f"{url.path.rstrip('/') or '/lookup'}?fqdn={quote(asks)}",
            headers={"Accept": "application/json", "User-Agent": RELOCATION_AGENT},
            timeout=LOOKUP_TIMEOUT,
        )
    except (OSError, HTTPException) as error:
        raise LookupFailure(f"{url.geturl()}: {error or type(error).__name__}") from None
    try:
        body = json.loads(reply.body)
        if reply.status != 200:
            return str(body["reason"])
        destination = Destination.from_json(body)
        is_ambiguous = body.get("ambiguous") and not destination.terms
        return "ZoneAmbiguous" if is_ambiguous else destination
    except (ValueError, RecursionError, TypeError, KeyError):
        return "InvalidAnswer"


def ask_all(url: SplitResult, asks: Iterable[str]) -> dict[str, Destination | str]:
    """The answer for each annotation, or a word.

    Raises `LookupFailure` if the service answers nothing at all: not if it hangs on a
    single name, whichever that is.
    """
    names = set(asks)
    answers: dict[str, Destination | str] = {
        each: "InvalidName" for each in names if not NAMES.fullmatch(each)
    }
    inquiry = Inquiry(url, names - answers.keys())
    inquiry.run()
    return answers | inquiry.answers | dict.fromkeys(inquiry.failures, "LookupFailure")


class Inquiry:
    """Asks for names side by side, and no longer if nobody answers."""

    def __init__(self, url: SplitResult, names: Iterable[str]) -> None:
        self.url = url
        self.waiting = deque(names)
        self.answers: dict[str, Destination | str] = {}
        self.failures: dict[str, LookupFailure] = {}

    def run(self) -> None:
        """Raises `LookupFailure` if there was no answer, and not for want of names."""
        # Daemons, unlike those of an executor: the process may end without them.
        number = min(LOOKUPS, len(self.waiting))
        threads = [Thread(target=self._work, daemon=True) for _ in range(number)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self.failures and not self.answers:
            raise next(iter(self.failures.values()))

    def _work(self) -> None:
        with suppress(IndexError):  # nobody is waiting any more
            while self.answers or len(self.failures) < LOOKUPS:
                name = self.waiting.popleft()
                try:
                    self.answers[name] = ask(self.url, name)
                except LookupFailure as failure:
                    self.failures[name] = failure
