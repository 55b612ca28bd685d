"""Files that may change while they are in use: when they are to be read again."""

from __future__ import annotations

import os
from time import monotonic

# Seconds between two looks. Files are read when two of them have found the same: who writes
# into one where it is, instead of putting another in its place, has had time to finish.
INTERVAL = 2.0

# Seconds after which what cannot be used is tried again though it is the same: what was in the
# way may be gone. So its metric goes on telling, too.
RETRY_INTERVAL = 60.0

# How a file is told from one that was read already; None if there is none. Through all
# symbolic links: the kubelet changes one of them when it swaps a volume's files. The time
# is that of the last change of any kind, which nobody can set back as that of the content.
Version = tuple[int, int, int, int] | None


class FileWatch:
    """What is known of files that are read together."""

    def __init__(self, *paths: str) -> None:
        self._paths = paths
        self._read: list[Version] = []  # of what was read last
        self._seen: list[Version] = []  # by the last look
        self._retry_at: float | None = None

    def begin(self) -> None:
        """The files are about to be read: what changes meanwhile is read again."""
        self._read = self._seen = self._look()

    def end(self, *, is_usable: bool) -> None:
        """The files have been read."""
        self._retry_at = None if is_usable else monotonic() + RETRY_INTERVAL

    def is_due(self) -> bool:
        """Whether the files are to be read again, having been looked at anew."""
        before, self._seen = self._seen, self._look()
        return self._seen == before and (self._seen != self._read or self._is_retried())

    def _is_retried(self) -> bool:
        return self._retry_at is not None and monotonic() >= self._retry_at

    def _look(self) -> list[Version]:
        return [_version(path) for path in self._paths]


def _version(path: str) -> Version:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_ctime_ns, found.st_size
