"""The log: nobody waits for who reads it, and nothing is lost that can be written."""

from __future__ import annotations

import io
import logging
import os
import sys
import threading
import unittest
from contextlib import ExitStack, redirect_stderr, suppress
from unittest import mock

from common import log
from tests.support import DEADLINE, wait_until

# More than a pipe holds, in lines of some 100 bytes.
MANY = 5000


class LineHandlerTest(unittest.TestCase):
    def setUp(self) -> None:
        """A logger whose lines go into a pipe."""
        self.reader, self.writer = os.pipe()
        self.handler = log.LineHandler(self.writer)
        self.handler.setFormatter(log.LineFormatter("%(asctime)s %(levelname)s %(message)s"))
        self.logger = logging.Logger("test")
        self.logger.addHandler(self.handler)
        self.addCleanup(self.close)

    def close(self) -> None:
        with suppress(OSError):
            os.close(self.reader)
        self.handler.close()
        self.handler._thread.join(DEADLINE)  # its write has failed by now
        with suppress(OSError):
            os.close(self.writer)

    def read(self) -> list[str]:
        """All lines, until the handler is closed."""
        found: list[bytes] = []

        def read() -> None:
            found.extend(iter(lambda: os.read(self.reader, 65536), b""))

        thread = threading.Thread(target=read)
        thread.start()
        self.handler.close()
        os.close(self.writer)
        thread.join(DEADLINE)
        return b"".join(found).decode().splitlines()

    def log(self, number: int) -> None:
        for each in range(number):
            self.logger.info("%s %d", "x" * 80, each)

    def numbers(self, lines: list[str]) -> list[int]:
        return [int(line.rpartition(" ")[2]) for line in lines]

    def test_lines_are_written_in_their_order_and_none_is_lost_at_the_end(self) -> None:
        self.log(MANY)
        self.assertEqual(self.numbers(self.read()), list(range(MANY)))
        self.assertEqual(self.handler.dropped.values[()], 0)

    def test_when_all_is_written_the_thread_sleeps(self) -> None:
        self.log(1)
        wait_until(lambda: not self.handler._lines)
        wait_until(lambda: not self.handler._wake.is_set())

    def test_when_nobody_reads_nobody_waits(self) -> None:
        with mock.patch.object(log, "MAX_LINES", 100):
            self.log(MANY)
            wait_until(lambda: len(self.handler._lines) < 100)  # the thread has some of them now
            self.log(MANY)
        dropped = self.handler.dropped.values[()]
        self.assertGreater(dropped, MANY)
        with self.subTest("what was not dropped is there when it is read"):
            lines = self.read()
            self.assertEqual(len(lines), 2 * MANY - dropped)
            self.assertRegex(lines[0], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} INFO x+ 0$")

    def test_the_end_does_not_wait_for_who_does_not_read(self) -> None:
        with mock.patch.object(log, "CLOSE_TIMEOUT", 0.05):
            self.log(MANY)
            self.handler.close()

    def test_what_is_not_taken_at_once_is_written_bit_by_bit(self) -> None:
        write = os.write
        with mock.patch("os.write", lambda descriptor, data: write(descriptor, data[:30])):
            self.log(10)
            self.assertEqual(self.numbers(self.read()), list(range(10)))

    def test_lines_that_cannot_be_written_are_counted(self) -> None:
        os.close(self.reader)
        self.log(3)
        self.handler.close()
        self.assertEqual(self.handler.dropped.values[()], 3)

    def test_what_cannot_be_encoded_is_escaped(self) -> None:
        self.logger.info("\udcff")
        self.assertIn("INFO \\udcff", self.read()[0])


class StartTest(unittest.TestCase):
    def setUp(self) -> None:
        stack = ExitStack()
        self.addCleanup(stack.close)
        stack.enter_context(mock.patch.object(logging.root, "handlers", []))
        stack.enter_context(mock.patch.object(logging, "_srcfile", logging._srcfile))
        stack.enter_context(mock.patch.object(logging, "raiseExceptions", True))
        stack.callback(logging.setLogRecordFactory, logging.getLogRecordFactory())
        for logger in (logging.root, logging.getLogger("asyncio")):
            stack.callback(logger.setLevel, logger.level)

    def test_without_standard_error_there_is_no_log(self) -> None:
        with mock.patch.object(sys, "stderr", None):
            self.assertIsNone(log.start("INFO"))
        with redirect_stderr(io.StringIO()) as errors:
            logging.error("to nobody")  # not to logging's last resort either
        self.assertEqual(errors.getvalue(), "")

    def test_a_defect_is_logged_with_its_traceback(self) -> None:
        handler = log.start("INFO")
        assert handler
        with mock.patch("os.write", side_effect=lambda _, data: len(data)) as write:
            logging.error("answering %s", "x", exc_info=ZeroDivisionError("a defect"))
            handler.close()
        first, *more = write.call_args.args[1].decode().splitlines()
        self.assertRegex(first, r"^\S+ ERROR answering x$")
        self.assertEqual(more, ["ZeroDivisionError: a defect"])

    def test_a_line_that_cannot_be_formatted_costs_nothing(self) -> None:
        handler = log.start("INFO")
        assert handler
        with mock.patch("os.write") as write, redirect_stderr(io.StringIO()) as errors:
            logging.info("%d", "no number")
            handler.close()
        write.assert_not_called()
        self.assertEqual(errors.getvalue(), "")


if __name__ == "__main__":
    unittest.main()
