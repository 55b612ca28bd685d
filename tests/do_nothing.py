"""The limit of the stack, for tests/bench.py: http.server with threads, and one fixed answer.

It does what `http.server` does by itself and nothing more: no lookup, no log. The answer leaves
in one segment: headers and body written apart would wait for each other (Nagle, delayed ACK).
"""

from __future__ import annotations

import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ANSWER = b'{"zone": "eu-central-1b", "zoneId": "euc1-az3"}'


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # buffered: handle_one_request() flushes headers and body together
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(ANSWER)))
        if self.close_connection:
            self.send_header("Connection", "close")  # else wrk counts the close as an error
        self.end_headers()
        self.wfile.write(ANSWER)

    def log_request(self, *args: object) -> None:
        """Stay silent."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 4096  # the stock 5 makes clients wait a second for a lost SYN


if __name__ == "__main__":
    Server(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
