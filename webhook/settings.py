"""The settings of the webhook."""

from __future__ import annotations

from dataclasses import dataclass

from common.settings import InvalidSetting, Settings, setting, text, whole_number
from webhook.certificate import Certificate


@dataclass(frozen=True)
class WebhookSettings(Settings):
    """Without a certificate there is no webhook."""

    tls_cert_file: str = setting(
        "", text, "a certificate in PEM form, with which the webhook serves API servers"
    )
    tls_key_file: str = setting("", text, "the certificate's key; without the two, no webhook")
    tls_port: int = setting("8443", whole_number(65535), "the webhook's port, as PORT")

    def certificate(self) -> Certificate | None:
        """What the webhook proves itself with; None without a webhook.

        Raises `InvalidSetting` or `InvalidCertificate`.
        """
        files = (self.tls_cert_file, self.tls_key_file)
        if not any(files):
            return None
        if not all(files):
            raise InvalidSetting("of TLS_CERT_FILE and TLS_KEY_FILE, only one is set")
        return Certificate(*files)
