"""Serves `/metrics` and `/healthz`."""

from __future__ import annotations

import json
import logging
import socket
import socketserver
from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import active_count
from typing import Any

from common.errors import shown
from common.metrics import CONTENT_TYPE, Family, render
from relocation.lookup_client import AGENT

# Connections to the metrics port at once, and seconds that each has for its request.
MAX_CONNECTIONS = 32
REQUEST_TIMEOUT = 5.0


class MetricsServer(ThreadingHTTPServer):
    """Serves `/metrics` and `/healthz` on a socket that listens already."""

    daemon_threads = True

    def __init__(self, listener: socket.socket, families: Callable[[], list[Family]]) -> None:
        handler = partial(MetricsHandler, families)
        socketserver.BaseServer.__init__(self, listener.getsockname(), handler)
        self.socket = listener

    def handle_error(self, request: Any, client_address: Any) -> None:
        logging.debug("a connection to the metrics port was lost", exc_info=True)

    def process_request(self, request: Any, client_address: Any) -> None:
        if active_count() > MAX_CONNECTIONS:
            self.shutdown_request(request)
        else:
            super().process_request(request, client_address)


class MetricsHandler(BaseHTTPRequestHandler):
    """Answers probes and scrapes."""

    timeout = REQUEST_TIMEOUT
    server_version = AGENT

    def __init__(self, families: Callable[[], list[Family]], *arguments: Any) -> None:
        self.families = families
        super().__init__(*arguments)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self.answer(200, render(self.families()), CONTENT_TYPE)
        elif path == "/healthz":
            self.answer(200, b'{"status": "ok"}')
        else:
            body = {"error": f"there is nothing at {shown(path)}", "reason": "NotFound"}
            self.answer(404, json.dumps(body).encode())

    def answer(self, status: int, body: bytes, content_type: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Logs nothing: probes and scrapes come every few seconds."""
