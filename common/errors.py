"""Every error the service answers with: the exception, its HTTP status and its reason."""

from __future__ import annotations

import reprlib
import sys
from http import HTTPStatus


class ServiceError(Exception):
    """An answer other than 200. The message is a sentence that names the value at fault."""

    status = HTTPStatus.INTERNAL_SERVER_ERROR
    fields = ""  # further header lines of the answer

    @property
    def reason(self) -> str:
        """The CamelCase word for programs; the class's name."""
        return type(self).__name__


class InternalError(ServiceError):
    """A defect in the service itself; the log has more."""


class InvalidRequest(ServiceError):
    """The request is not well-formed, or its query is not just one `fqdn`."""

    status = HTTPStatus.BAD_REQUEST


class InvalidName(ServiceError):
    """The value is neither a fully qualified domain name nor an IP address."""

    status = HTTPStatus.BAD_REQUEST


class NotFound(ServiceError):
    """There is no such path."""

    status = HTTPStatus.NOT_FOUND


class MethodNotAllowed(ServiceError):
    """The path is not served by this method: but for reviews, only GET and HEAD are."""

    status = HTTPStatus.METHOD_NOT_ALLOWED

    def __init__(self, message: str, allowed: str = "GET, HEAD") -> None:
        super().__init__(message)
        self.fields = f"Allow: {allowed}\r\n"


class LengthRequired(ServiceError):
    """A review comes without Content-Length, perhaps in chunks."""

    status = HTTPStatus.LENGTH_REQUIRED


class ContentTooLarge(ServiceError):
    """A review is larger than any that an API server sends."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE


class UnsupportedMediaType(ServiceError):
    """A review is not `application/json`."""

    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE


class NameNotAllowed(ServiceError):
    """The name is in none of the domains that `ALLOWED_DOMAINS` lists."""

    status = HTTPStatus.FORBIDDEN


class NameNotFound(ServiceError):
    """The name does not exist (NXDOMAIN) or has no address."""

    status = HTTPStatus.NOT_FOUND


class ZoneNotFound(ServiceError):
    """The address is in none of the subnets."""

    status = HTTPStatus.NOT_FOUND


class ResolverFailure(ServiceError):
    """The DNS server failed, or could not be asked."""

    status = HTTPStatus.BAD_GATEWAY


class Overloaded(ServiceError):
    """Too many queries are under way to begin another."""

    status = HTTPStatus.SERVICE_UNAVAILABLE


class ShuttingDown(ServiceError):
    """The service was told to stop and takes no more work."""

    status = HTTPStatus.SERVICE_UNAVAILABLE


class CertificateExpired(ServiceError):
    """The webhook's certificate has expired: no API server calls it any more."""

    status = HTTPStatus.SERVICE_UNAVAILABLE


class ResolverTimeout(ServiceError):
    """DNS did not answer in time."""

    status = HTTPStatus.GATEWAY_TIMEOUT


def error_body(error: ServiceError) -> dict[str, str]:
    """An error as JSON knows it."""
    return {"error": str(error), "reason": error.reason}


def complain(*lines: str, status: int = 1) -> int:
    """Writes lines to standard error; returns the exit status, for a program that ends with them."""
    for line in lines:
        print(line, file=sys.stderr)
    return status


# Characters of a value that a message shows.
MAX_SHOWN = 240


def shown(value: object) -> str:
    """`value` as a message may show it: quoted, in one line and of bounded length."""
    if isinstance(value, str) and len(value) <= MAX_SHOWN:
        return repr(value)
    return _bounded.repr(value)


_bounded = reprlib.Repr()
_bounded.maxstring = _bounded.maxother = MAX_SHOWN
