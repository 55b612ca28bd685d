"""AWS, as the tests of what is gathered see it: moto's server, behind a gateway that does as it is told.

moto (https://docs.getmoto.org) answers whatever is asked in one page, refuses nobody and is never
too busy. The gateway makes up for that.
"""

from __future__ import annotations

import re
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_network
from typing import Any
from urllib.parse import parse_qsl, urlencode
from xml.etree import ElementTree

from tests.support import DEADLINE, in_background

VERSIONS = {"ec2": "2016-11-15", "sts": "2011-06-15"}
SPACE = "{http://ec2.amazonaws.com/doc/2016-11-15}"

# Of a request's signature, which nobody checks, the access key and the region.
CREDENTIAL = re.compile(r"Credential=(\w+)/\w+/([\w-]+)/")

MOTO_START = 60.0


class Gateway(ThreadingHTTPServer):
    """Passes requests on to moto, and makes pages of what it answers."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.moto = f"http://127.0.0.1:{port}/"
        self.accounts: dict[str, str] = {}  # by access key
        self.reset()

    def reset(self) -> None:
        """Does nothing but pass requests on."""
        self.page_size = 1000
        self.refused_role = ""
        self.throttled = 0  # requests that are
        # By account and region, a subnet of another account.
        self.shared: dict[tuple[str, str], str] = {}
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: object) -> None:
        """A client that has gone is not worth a line."""

    def role(self, account: str) -> str:
        return f"arn:aws:iam::{account}:role/subnets"

    def key(self, account: str) -> str:
        """An access key for the account."""
        answer = self.call("sts", "AssumeRole", RoleArn=self.role(account), RoleSessionName="test")
        return _text(answer, "AccessKeyId")

    def call(
        self,
        service: str,
        action: str,
        key: str = "AKIATEST",
        region: str = "eu-central-1",
        **parameters: str,
    ) -> str:
        """What moto itself answers."""
        credential = f"AWS4-HMAC-SHA256 Credential={key}/20260101/{region}/{service}/aws4_request"
        body = {"Action": action, "Version": VERSIONS[service], **parameters}
        return self.ask(urlencode(body).encode(), {"Authorization": credential})[1].decode()

    def ask(self, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        request = urllib.request.Request(self.moto, body, headers)
        try:
            with urllib.request.urlopen(request, timeout=DEADLINE) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()


class Handler(BaseHTTPRequestHandler):
    server: Gateway

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        fields = dict(parse_qsl(body.decode()))
        self.server.asked.append(fields["Action"])
        refusal = self.refusal(fields)
        if refusal:
            self.answer(*refusal)
            return
        names = ("Authorization", "Content-Type", "X-Amz-Security-Token")
        headers = {name: self.headers[name] for name in names if self.headers[name]}
        status, content = self.server.ask(body, headers)
        if status == 200 and fields["Action"] == "AssumeRole":
            account = fields["RoleArn"].split(":")[4]
            self.server.accounts[_text(content.decode(), "AccessKeyId")] = account
        if status == 200 and fields["Action"] == "DescribeSubnets":
            content = self.page(content, fields)
        self.answer(status, content)

    def refusal(self, fields: dict[str, str]) -> tuple[int, bytes] | None:
        if fields["Action"] == "AssumeRole" and fields["RoleArn"] == self.server.refused_role:
            return 403, _sts_error("AccessDenied", f"not authorized to assume {fields['RoleArn']}")
        if fields["Action"] == "DescribeSubnets" and self.server.throttled > 0:
            self.server.throttled -= 1
            return 503, _ec2_error("RequestLimitExceeded", "Request limit exceeded.")
        return None

    def page(self, content: bytes, fields: dict[str, str]) -> bytes:
        content = content.replace(b"{'State': 'associated'}", b"associated")  # a slip of moto's
        root = ElementTree.fromstring(content)
        found = root.find(f"{SPACE}subnetSet")
        assert found is not None
        signature = CREDENTIAL.search(self.headers["Authorization"])
        assert signature
        account = self.server.accounts.get(signature[1], "")
        shared = self.server.shared.get((account, signature[2]))
        items = [*found, *([ElementTree.fromstring(shared)] if shared else [])]
        first = int(fields.get("NextToken", 0))
        after = first + min(self.server.page_size, int(fields.get("MaxResults", 1000)))
        found[:] = items[first:after]
        if after < len(items):
            ElementTree.SubElement(root, f"{SPACE}nextToken").text = str(after)
        return ElementTree.tostring(root)

    def answer(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "text/xml")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def _text(xml: str, tag: str) -> str:
    found = re.search(rf"<{tag}>(.*?)</{tag}>", xml)
    assert found, xml
    return found[1]


def _ec2_error(code: str, message: str) -> bytes:
    error = f"<Errors><Error><Code>{code}</Code><Message>{message}</Message></Error></Errors>"
    return f"<Response>{error}<RequestID>r-1</RequestID></Response>".encode()


def _sts_error(code: str, message: str) -> bytes:
    space = 'xmlns="https://sts.amazonaws.com/doc/2011-06-15/"'
    error = f"<Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error>"
    return f"<ErrorResponse {space}>{error}<RequestId>r-1</RequestId></ErrorResponse>".encode()


class Network:
    """A VPC of an account in a region, for both families of addresses."""

    def __init__(self, aws: Gateway, account: str, region: str, cidr: str) -> None:
        self.aws = aws
        self.where = {"key": aws.key(account), "region": region}
        vpc = self.call("CreateVpc", CidrBlock=cidr, AmazonProvidedIpv6CidrBlock="true")
        self.vpc = _text(vpc, "vpcId")
        self.ipv6 = str(ip_network(_text(vpc, "ipv6CidrBlock").replace("/56", "/64")))

    def call(self, action: str, **parameters: str) -> str:
        answer = self.aws.call("ec2", action, **self.where, **parameters)
        assert "<Error>" not in answer, answer
        return answer

    def add(self, zone: str, cidr: str = "") -> str:
        """Creates a subnet, an IPv6-only one without `cidr`; how DescribeSubnets lists it."""
        block = {"CidrBlock": cidr} if cidr else {"Ipv6CidrBlock": self.ipv6, "Ipv6Native": "true"}
        zone = self.where["region"] + zone
        answer = self.call("CreateSubnet", VpcId=self.vpc, AvailabilityZone=zone, **block)
        found = re.search(r"<subnet>(.*)</subnet>", answer)
        assert found
        return f'<item xmlns="{SPACE[1:-1]}">{found[1]}</item>'


@contextmanager
def serving() -> Iterator[Gateway]:
    """moto's server, with a gateway before it."""
    with _moto() as port, Gateway(port) as gateway, in_background(gateway):
        yield gateway


@contextmanager
def _moto() -> Iterator[int]:
    command = ["moto_server", "-H", "127.0.0.1", "-p", "0"]
    output: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **output) as process:
        timer = threading.Timer(MOTO_START, process.kill)
        timer.start()
        said = []
        try:
            for line in process.stderr or ():
                said.append(line)
                if port := re.search(r"Running on http://127\.0\.0\.1:(\d+)", line):
                    timer.cancel()
                    threading.Thread(target=process.stderr.read, daemon=True).start()  # type: ignore[union-attr]
                    yield int(port[1])
                    break
            else:
                raise AssertionError(f"moto_server did not start: {''.join(said)}")
        finally:
            timer.cancel()
            process.kill()
