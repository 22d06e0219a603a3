"""The certificate of the TLS listeners: an operator's own, or one from a certificate authority made for this copy.

The broker reads one file, key and chain together, which only we write and only as a whole: whatever a renewal tool
leaves half done (a new certificate beside the old key, say) never reaches it.
"""

import contextlib
import ipaddress
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from soundbox_server.broker.mosquitto import write_atomically

AUTHORITY_LIFE = timedelta(days=3650)  # boxes learn it at activation and at no other time
SERVER_LIFE = timedelta(days=90)
RENEW_BEFORE = timedelta(days=30)
ServerKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
_BACKDATED = timedelta(hours=1)  # for boxes whose clock is behind


class CertificateProblem(Exception):
    """Key and certificate cannot be served; the message says why, and never quotes the key."""


@dataclass(frozen=True)
class Pair:
    """A server's key and certificate chain, checked: they belong together."""

    pem: str = field(repr=False)
    certificate: x509.Certificate

    @property
    def ends_at(self) -> datetime:
        return self.certificate.not_valid_after_utc

    def ends_within(self, time: timedelta, *, now: datetime) -> bool:
        return self.ends_at - now <= time


def read_pair(certificate: Path, key: Path, *, now: datetime) -> Pair:
    """What two PEM files hold. Raises CertificateProblem when a server could not use it, now or at all."""
    try:
        chain = x509.load_pem_x509_certificates(certificate.read_bytes())
        private = load_pem_private_key(key.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as problem:
        raise CertificateProblem(f"{certificate} and {key} cannot be read: {problem}") from problem
    if not isinstance(private, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise CertificateProblem(f"the key in {key} is neither elliptic-curve nor RSA")
    if _public(private) != _public(chain[0]):
        raise CertificateProblem(f"the key in {key} does not belong to the first certificate in {certificate}")
    if chain[0].not_valid_after_utc <= now:
        raise CertificateProblem(f"{certificate} has ended on {chain[0].not_valid_after_utc:%Y-%m-%d}")
    return Pair(_pem(private, chain), chain[0])


def issue(folder: Path, *, names: Sequence[str], now: datetime) -> Pair:
    """A server certificate for these host names and addresses, signed by the folder's authority (made if there is
    none), which also travels in the chain."""
    authority, authority_key = _authority(folder, now=now)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        _builder(names[0], authority.subject, key, now=now, life=min(SERVER_LIFE, authority.not_valid_after_utc - now))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([_name(name) for name in dict.fromkeys(names)]), critical=False)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(_authority_id(authority), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    return Pair(_pem(key, [certificate, authority]), certificate)


def authority_pem(folder: Path, *, now: datetime) -> str:
    """The certificate of the folder's authority, for whoever has to trust it; made if there is none."""
    return _authority(folder, now=now)[0].public_bytes(Encoding.PEM).decode()


def served_pair(path: Path) -> Pair | None:
    """The pair in the file that the broker reads; None when there is none, or none that is whole."""
    try:
        text = path.read_bytes()
        return Pair(text.decode(), x509.load_pem_x509_certificates(text)[0])
    except (FileNotFoundError, ValueError):
        return None


def is_for(certificate: x509.Certificate, names: Sequence[str]) -> bool:
    """Whether a client that was sent to any of these names would accept the certificate's own names."""
    held = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return all(_name(name) in held for name in names)


def is_signed_by(certificate: x509.Certificate, authority: str) -> bool:
    """Whether this authority (PEM) has signed the certificate."""
    try:
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.encode()))
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _authority(folder: Path, *, now: datetime) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    path = folder / "authority.pem"
    if not path.exists():
        _create_authority(path, now=now)
    text = path.read_bytes()
    key = load_pem_private_key(text, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CertificateProblem(f"{path} does not hold the authority that was made here")
    return x509.load_pem_x509_certificate(text), key


def _create_authority(path: Path, *, now: datetime) -> None:
    """Whole or not at all, and only once: of two processes that start together, the first one's authority stands."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = f"Soundbox development CA {secrets.token_hex(4)}"
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        _builder(name, subject, key, now=now, life=AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    unfinished = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    write_atomically(unfinished, _pem(key, [certificate]))
    try:
        with contextlib.suppress(FileExistsError):
            os.link(unfinished, path)
    finally:
        unfinished.unlink()


def _builder(
    name: str, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, *, now: datetime, life: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])]))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates, key_cert_sign=signs_certificates, crl_sign=signs_certificates,
        content_commitment=False, key_encipherment=False, data_encipherment=False, key_agreement=False,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _authority_id(authority: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    own = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


def _name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _public(holder: ServerKey | x509.Certificate) -> bytes:
    return holder.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _pem(key: ServerKey, chain: Sequence[x509.Certificate]) -> str:
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return b"".join((private, *(certificate.public_bytes(Encoding.PEM) for certificate in chain))).decode()
