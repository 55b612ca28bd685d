"""A decision as a line of text, which the policy takes apart in CEL, and back. No I/O.

    db.example.internal until=2026-11-28T22:51:00Z required-until=2026-11-28T22:47:35Z
    zone=eu-central-1b zone-id=euc1-az3 required=topology.kubernetes.io/zone=eu-central-1b
    preferred=100=topology.kubernetes.io/zone=eu-central-1b preferred=50=example.com/rack=r1,r2

is one, in one line. What there is nothing to say of is left out. The policy looks at each part
before it uses it, so a line that was changed by hand makes no Pod invalid.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import NamedTuple

from common.names import NAMES_PATTERN
from lookup.placement import Answer

# Characters of a line. Eight long names leave half of it for what was decided; the policy has
# been tried with such a line within what CEL may cost.
MAX_LINE = 4096

_LINE = re.compile(
    rf"({NAMES_PATTERN}) until=(\S+)(?: required-until=(\S+))?((?: zone(?:-id)?=\S+){{0,2}}"
    r"(?: required=\S+)?(?: preferred=\S+)+)"
)


def is_annotation(names: str) -> bool:
    """Whether an annotation may have these names."""
    return bool(re.fullmatch(NAMES_PATTERN, names))


class Decision(NamedTuple):
    """What was decided for those who ask for these names; the times are Unix time.

    It holds `until` a time, and what it requires is only `fresh_until` another. Without
    `content` it says that there is no decision any more.
    """

    names: str  # as an annotation has them
    content: str
    until: int
    fresh_until: int

    def line(self) -> str:
        """It as the ConfigMap has it."""
        fresh = f" required-until={_text(self.fresh_until)}" if " required=" in self.content else ""
        return f"{self.names} until={_text(self.until)}{fresh}{self.content}"


def content_of(answer: Answer) -> str:
    """What an answer says to a Pod; empty if it is to be left alone."""
    return "".join(f" {part}" for part in _parts(answer)) if answer.node_labels else ""


def _parts(answer: Answer) -> Iterator[str]:
    if answer.zone is not None:
        yield f"zone={answer.zone}"
    if answer.zone_id is not None:
        yield f"zone-id={answer.zone_id}"
    for key, value in answer.node_selector:
        yield f"required={key}={value}"
    for label in answer.node_labels:
        yield f"preferred={label.weight}={label.key}={','.join(label.values)}"


def decision_in(line: str) -> Decision | None:
    """The decision that a line has; None if it was not made here, or has been damaged."""
    found = _LINE.fullmatch(line)
    if not found:
        return None
    names, until, fresh_until, content = found.groups()
    try:
        return Decision(names, content, _time(until), _time(fresh_until or until))
    except ValueError:
        return None


# Times as RFC 3339 has them, in whole seconds.


def _text(time: int) -> str:
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _time(text: str) -> int:
    return int(datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp())
