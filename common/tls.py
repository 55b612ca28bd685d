"""The TLS of one connection, without I/O."""

from __future__ import annotations

import ssl
from contextlib import suppress

# What a record holds at most (RFC 8446, section 5.1), and so what is read of one at a time.
MAX_RECORD = 16 * 1024


class Channel:
    """The TLS of one connection: bytes go in, bytes come out, and it knows no socket.

    That of `asyncio` has a buffer of 256 KiB for each connection, and does not tell
    of those that have not agreed upon anything yet, so that nobody could count them.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self.is_open = False  # the handshake is done
        self.has_ended = False  # the client says that it sends no more

    def decrypt(self, received: bytes | memoryview) -> bytes:
        """What the client says with this; perhaps nothing yet. Raises `ssl.SSLError`.

        Whether it does or not, what is `pending` then has to be sent.
        """
        self._incoming.write(received)
        said = b""
        try:
            if not self.is_open:
                self._tls.do_handshake()
                self.is_open = True
            while self._incoming.pending and not self.has_ended:
                part = self._tls.read(MAX_RECORD)
                said += part
                self.has_ended = not part
        except ssl.SSLWantReadError:
            pass  # the rest of a record is still to come
        except ssl.SSLZeroReturnError:  # and so do we
            self.has_ended = True
        return said

    def encrypt(self, data: bytes) -> bytes:
        """What has to be sent to say this."""
        while data:
            data = data[self._tls.write(data) :]
        return self.pending()

    def end(self) -> bytes:
        """What has to be sent to say that nothing more will come."""
        with suppress(ssl.SSLError):  # the client has not said so, or nothing was agreed upon
            self._tls.unwrap()
        return self.pending()

    def pending(self) -> bytes:
        """What has to be sent of the protocol's own."""
        return self._outgoing.read()
