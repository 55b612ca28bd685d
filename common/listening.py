"""Listening sockets, and how many connections there may be."""

from __future__ import annotations

import errno
import resource
import socket
from contextlib import suppress

from common.errors import shown
from common.settings import InvalidSetting

# Connections that may wait to be accepted; the kernel caps it at net.core.somaxconn.
BACKLOG = 4096


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; without a host, or for `::`, for all addresses of both families.

    If there is only one family, it is for that. Raises `OSError`, whose `strerror` says why.
    """
    if host not in ("", "::"):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            host.encode("idna")  # as a socket does it
        except UnicodeError:
            raise OSError(errno.EINVAL, "this is not a host name") from None
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(
                ("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=BACKLOG
            )
        except OSError as error:
            # The kernel knows IPv6, but it is switched off here.
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                raise
    return socket.create_server(("", port), backlog=BACKLOG)


def open_port(host: str, name: str, port: int) -> socket.socket:
    """As `listen`; `name` is the port's setting. Raises `InvalidSetting`, which says why."""
    try:
        return listen(host, port)
    except OSError as error:
        why = str(error.strerror).partition(" (while")[0]  # there it repeats the address
        raise InvalidSetting(f"cannot listen on HOST {shown(host)}, {name} {port}: {why}") from None


def raise_connection_limit(most: int, others: int) -> int:
    """The number of connections, `most` at most, that the limit of open files leaves room for.

    It is raised if possible. So many `others` are needed besides.
    """
    wanted = most + others
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return most
    return min(most, max(soft - others, soft // 2))
