"""Certificates for tests, made by the `openssl` command."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
import tempfile
from pathlib import Path

AVAILABLE = shutil.which("openssl") is not None
WHY_NOT = "the openssl command is not on PATH"

KEYS = {
    "ec": ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"],
    "rsa": ["-newkey", "rsa:2048"],
}

# Python 3.13 and newer verify no certificate that lacks these.
ROOT_EXTENSION = "keyUsage=critical,keyCertSign"
EXTENSIONS = """
subjectAltName=DNS:localhost,IP:127.0.0.1
basicConstraints=critical,CA:FALSE
subjectKeyIdentifier=hash
authorityKeyIdentifier=keyid
"""


class Pair:
    """A certificate and its key, each in a file."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self.certificate = certificate
        self.key = key

    @property
    def der(self) -> bytes:
        """The certificate as a client sees it."""
        leaf, end, _ = self.certificate.read_text().partition("-----END CERTIFICATE-----\n")
        return ssl.PEM_cert_to_DER_cert(leaf + end)

    def settings(self) -> dict[str, str]:
        """With these, the service has a webhook."""
        return {"TLS_CERT_FILE": str(self.certificate), "TLS_KEY_FILE": str(self.key)}


class Authority:
    """Issues certificates for 127.0.0.1, all into one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = self.request(
            "root", "ec", "-x509", "-days", "3650", "-addext", ROOT_EXTENSION, "-out", "root.crt"
        )
        (folder / "extensions").write_text(EXTENSIONS)

    def openssl(self, *arguments: str) -> None:
        run = subprocess.run(["openssl", *arguments], cwd=self.folder, capture_output=True)
        assert run.returncode == 0, run.stderr.decode()

    def request(self, name: str, algorithm: str, *more: str) -> Pair:
        self.openssl("req", *KEYS[algorithm], "-nodes", "-subj", f"/CN={name}",
                     "-keyout", f"{name}.key", *more)  # fmt: skip
        return Pair(self.folder / f"{name}.crt", self.folder / f"{name}.key")

    def issue(self, name: str, algorithm: str = "ec", days: int = 30) -> Pair:
        """A new pair, with the root behind the certificate."""
        pair = self.request(name, algorithm, "-new", "-out", f"{name}.csr")
        self.openssl(
            "x509", "-req", "-in", f"{name}.csr", "-CA", "root.crt", "-CAkey", "root.key",
            "-CAcreateserial", "-days", str(days), "-extfile", "extensions", "-out", f"{name}.crt",
        )  # fmt: skip
        with pair.certificate.open("a") as file:
            file.write(self.root.certificate.read_text())
        return pair

    def client(self) -> ssl.SSLContext:
        """What verifies the certificates, as an API server does."""
        return ssl.create_default_context(cafile=str(self.root.certificate))


class Secret:
    """A folder in which files are swapped all at once, as the kubelet does with a Secret's."""

    def __init__(self, folder: Path, pair: Pair) -> None:
        self.folder = folder
        self.write(pair.certificate, pair.key)
        self.pair = Pair(folder / "tls.crt", folder / "tls.key")
        for file in (self.pair.certificate, self.pair.key):
            file.symlink_to(Path("..data", file.name))

    def write(self, certificate: Path, key: Path) -> None:
        target = Path(tempfile.mkdtemp(dir=self.folder))
        shutil.copy(certificate, target / "tls.crt")
        shutil.copy(key, target / "tls.key")
        link = self.folder / "..data_tmp"
        link.symlink_to(target.name)
        os.replace(link, self.folder / "..data")
