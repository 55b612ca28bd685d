"""The webhook's certificate and its key, in files that may change."""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from time import time

from common import file_watch
from common.errors import CertificateExpired
from common.metrics import Counter, Family, Gauge

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)

# Tags of DER (ITU-T X.690, section 8).
_UTC_TIME = 0x17
_VERSION = 0xA0


class InvalidCertificate(ValueError):
    """The files hold no certificate and key that belong together."""


class Certificate:
    """The newest certificate and key in two files that could be used.

    Raises `InvalidCertificate` if there are none to begin with.
    """

    def __init__(self, certificate_file: str, key_file: str) -> None:
        self._files = (certificate_file, key_file)
        self._failures = Counter(
            "tls_reload_failures_total", "Times that changed certificate files could not be used."
        )
        self._failing = False
        self._changes = file_watch.FileWatch(certificate_file, key_file)
        self._changes.begin()
        self._seen = self._read()
        self.context, self.expiry = self._load()

    def metrics(self) -> list[Family]:
        """The families that describe the certificate."""
        return [
            Gauge(
                "tls_certificate_expiry_timestamp_seconds",
                "When the certificate in use expires, in seconds since 1970.",
                lambda: self.expiry,
            ),
            self._failures,
        ]

    def current(self) -> ssl.SSLContext:
        """What those are served with who connect now."""
        return self.context

    def why_useless(self) -> CertificateExpired | None:
        """Why nobody accepts it; None if it is valid."""
        if time() < self.expiry:
            return None
        return CertificateExpired(f"the webhook's certificate has expired: {self._until()}")

    def _until(self) -> str:
        return datetime.fromtimestamp(self.expiry, UTC).isoformat()

    async def watch(self) -> None:
        """Looks at the files now and then, for ever."""
        while True:
            await asyncio.sleep(file_watch.INTERVAL)
            if self._changes.is_due():
                self._changes.begin()
                self.look()
                self._changes.end(is_usable=not self._failing)

    def look(self) -> None:
        """Uses what is in the files from now on, if that is new and can be used.

        If it cannot, it is tried again by each look, and so the metric goes on telling.
        """
        found = self._read()
        is_new = found != self._seen
        if not is_new and not self._failing:
            return
        self._seen = found
        try:
            self.context, self.expiry = self._load()
        except InvalidCertificate as error:
            self._failing = True
            self._failures.increment()
            if is_new:
                logging.warning("the certificate in use stays: %s", error)
        else:
            self._failing = False
            logging.info("a new certificate is in use, until %s", self._until())

    def _read(self) -> tuple[bytes, bytes] | str:
        """What is in the files, or why they cannot be read."""
        try:
            with open(self._files[0], "rb") as certificate, open(self._files[1], "rb") as key:
                return certificate.read(), key.read()
        except OSError as error:
            return f"{error.filename}: {error.strerror}"

    def _load(self) -> tuple[ssl.SSLContext, float]:
        if isinstance(self._seen, str):
            raise InvalidCertificate(self._seen)
        try:
            return _context(*self._files), expiry(self._seen[0])
        except (OSError, ValueError) as error:
            raise InvalidCertificate(f"{' and '.join(self._files)}: {error}") from None


def _context(certificate_file: str, key_file: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A client could have us compute at no cost of its own.
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    # Without a password OpenSSL would ask for that of an encrypted key, on the terminal.
    context.load_cert_chain(certificate_file, key_file, password="")
    return context


def expiry(pem: bytes) -> float:
    """When the first certificate expires, which is the server's own, in seconds since 1970.

    The standard library says it only of certificates that it verifies. Raises
    `InvalidCertificate`.
    """
    found = _PEM.search(pem)
    if found is None:
        raise InvalidCertificate("there is no certificate")
    try:
        return _not_after(ssl.PEM_cert_to_DER_cert(found[0].decode()))
    except (IndexError, ValueError):
        raise InvalidCertificate("the certificate is malformed") from None


def _not_after(der: bytes) -> float:
    """The end of the validity (RFC 5280, sections 4.1 and 4.1.2.5)."""
    ((_, certificate),) = _elements(der)
    (_, to_be_signed), *_ = _elements(certificate)
    # The serial number, the signature's algorithm, the issuer, the validity ...
    fields = [content for tag, content in _elements(to_be_signed) if tag != _VERSION]
    _, (tag, content) = _elements(fields[3])
    text = content.decode()
    if tag == _UTC_TIME:
        text = ("19" if text >= "50" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()


def _elements(der: bytes) -> Iterator[tuple[int, bytes]]:
    """The tag and the content of each element in a row of them."""
    while der:
        tag, length, start = der[0], der[1], 2
        if length > 0x7F:  # so many octets of length follow
            start += length & 0x7F
            length = int.from_bytes(der[2:start], "big")
        yield tag, der[start : start + length]
        der = der[start + length :]
