"""A certificate authority and what it signs, by the openssl command. Elliptic curve keys: made in milliseconds."""

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_AUTHORITY_EXTENSIONS = "basicConstraints = critical, CA:TRUE\nkeyUsage = critical, keyCertSign, digitalSignature\n"
_LEAF_EXTENSIONS = (
    "basicConstraints = critical, CA:FALSE\nkeyUsage = critical, digitalSignature\n"
    "extendedKeyUsage = serverAuth, clientAuth\n"
)


@dataclass(frozen=True)
class KeyPair:
    """PEM files: a certificate and its private key."""

    certificate: Path
    key: Path


class Authority:
    """Signs certificates; everything lies in one directory, valid for a year."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.pair = self._pair("ca")
        self._make(self.pair, ["CN = llmops-cluster"], _AUTHORITY_EXTENSIONS)

    @property
    def certificate(self) -> Path:
        return self.pair.certificate

    def issue(self, name: str, user: str, groups: Sequence[str] = (), *, addresses: Sequence[str] = ()) -> KeyPair:
        """A pair that Kubernetes takes for that user in those groups, or a server for those IPs and DNS names."""
        pair = self._pair(name)
        subject = [f"{number}.O = {group}" for number, group in enumerate(groups)]
        alternatives = [("IP:" if address.replace(".", "").isdigit() else "DNS:") + address for address in addresses]
        extensions = _LEAF_EXTENSIONS
        if alternatives:
            extensions += f"subjectAltName = {', '.join(alternatives)}\n"
        self._make(pair, [*subject, f"CN = {user}"], extensions, issuer=self.pair)
        return pair

    def signing_keys(self, name: str) -> KeyPair:
        """A bare key (for service account tokens) and, as its certificate, the public key."""
        pair = KeyPair(self._directory / f"{name}.pub", self._directory / f"{name}.key")
        _openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", pair.key)
        _openssl("pkey", "-in", pair.key, "-pubout", "-out", pair.certificate)
        return pair

    def _pair(self, name: str) -> KeyPair:
        return KeyPair(self._directory / f"{name}.crt", self._directory / f"{name}.key")

    def _make(self, pair: KeyPair, subject: Sequence[str], extensions: str, *, issuer: KeyPair | None = None) -> None:
        request = pair.certificate.with_suffix(".cnf")
        request.write_text(
            "[req]\nprompt = no\ndistinguished_name = subject\n"
            "[subject]\n" + "\n".join(subject) + f"\n[extensions]\n{extensions}"
        )
        signer: list[str | Path] = ["-CA", issuer.certificate, "-CAkey", issuer.key] if issuer else []
        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", pair.key)
        validity = ("-extensions", "extensions", "-days", "365")
        _openssl("req", "-x509", "-new", "-config", request, *validity, *key, "-out", pair.certificate, *signer)
        request.unlink()


def _openssl(*arguments: str | Path) -> None:
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"openssl {arguments[0]}: {done.stderr.strip()}")
