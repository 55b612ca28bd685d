"""The file that `SUBNETS_FILE` names: read at start, and again whenever it has changed.

    python3 -m lookup.table_file FILE NODE_LABEL

is how it is read again: by a process of its own. In a thread it would hold up the
event loop a hundred times over, as the two would have to share one interpreter.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING

from common import file_watch
from lookup.table import InvalidSubnets, SubnetTable
from lookup.table_reader import read_file

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

# How it is run again: this module, and where all of them are.
MODULE = "lookup.table_file"
PROGRAM = Path(__file__).resolve().parent.parent

# Seconds for which a file may be read. A hundred thousand subnets take half of one.
READ_TIMEOUT = 300

# A table can wait, lookups cannot.
NICENESS = 10


class TableFile:
    """A file with a table of subnets; `node_label` is the label that stands for the zone."""

    def __init__(self, path: str, node_label: str) -> None:
        self.path = path
        self.node_label = node_label
        self._changes = file_watch.FileWatch(path)
        self._hurry = Event()
        self._ended = False

    def read(self) -> SubnetTable:
        """The table that is in the file now. Raises `InvalidSubnets`."""
        self._changes.begin()
        return read_file(self.path, self.node_label)

    def watch(
        self, loop: AbstractEventLoop, use: Callable[[SubnetTable | InvalidSubnets], None]
    ) -> None:
        """From now on, `use` is called on the loop whenever the file has been read again."""
        # A daemon: neither a long table nor a file system that hangs delays the exit.
        Thread(target=self._watch, args=(loop, use), daemon=True).start()

    def read_again(self) -> None:
        """Has it read now, whether or not it has changed."""
        self._hurry.set()

    def unwatch(self) -> None:
        """Has it never read again."""
        self._ended = True
        self._hurry.set()

    def _watch(
        self, loop: AbstractEventLoop, use: Callable[[SubnetTable | InvalidSubnets], None]
    ) -> None:
        while self._wait():
            self._changes.begin()
            outcome = self._read_apart()
            self._changes.end(is_usable=isinstance(outcome, SubnetTable))
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(use, outcome)

    def _wait(self) -> bool:
        """Waits until the file is to be read; False if it no longer is."""
        while not self._hurry.wait(file_watch.INTERVAL):
            if self._changes.is_due():
                break
        self._hurry.clear()
        return not self._ended

    def _read_apart(self) -> SubnetTable | InvalidSubnets:
        """What another process finds in the file."""
        import pickle  # only now, because most have no use for it

        table, problems = None, list[str]()
        try:
            with subprocess.Popen(
                [sys.executable, "-P", "-m", MODULE, self.path, self.node_label],
                env={**os.environ, "PYTHONPATH": str(PROGRAM)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is not meant for it
            ) as reader:
                assert reader.stdout
                with suppress(EOFError):
                    # A part at a time, as the pipe has it: in between, others run.
                    table, problems = pickle.load(reader.stdout)
            if reader.returncode:
                raise subprocess.CalledProcessError(reader.returncode, MODULE)
        except Exception as error:  # whatever it is, it must not end the looks that follow
            return InvalidSubnets([f"{self.path}: cannot be read: {error}"])
        return InvalidSubnets(problems) if table is None else table


def main(path: str, node_label: str) -> None:
    """Writes to standard output what is in the file, or what is wrong with it."""
    import pickle

    signal.alarm(READ_TIMEOUT)  # it ends then even if nobody waits for it any more
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.nice(NICENESS)
    table, problems = None, list[str]()
    try:
        table = read_file(path, node_label)
    except InvalidSubnets as error:
        problems = error.problems
    sys.stdout.buffer.write(pickle.dumps((table, problems)))


if __name__ == "__main__":
    main(*sys.argv[1:])
