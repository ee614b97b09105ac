"""Checks of the network up to the store: name, proxy, TLS chain, clock.

Every step is tried by itself, as plainly as the standard library can, so that
the first one that fails is the one to be mended. Nothing of the site is sent: a
connection, and a HEAD for the server's front page.
"""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit
from urllib.request import getproxies, proxy_bypass

from cryptography import x509
from cryptography.x509.oid import NameOID

from sites.doctor import Check, Row
from sites.doctor.short import SKEW_S
from sites.settings import Site

PATIENCE_S = 5.0
EXPIRES_SOON_S = 14 * 86400


class Way(NamedTuple):
    """How the store's server is reached; `proxy` is host and port."""

    host: str
    port: int
    secure: bool
    proxy: tuple[str, int] | None

    def connect(self, context: ssl.SSLContext | None = None) -> http.client.HTTPConnection:
        """A connection that is made when it is used."""
        host, port = self.proxy or (self.host, self.port)
        if self.secure:
            secure = http.client.HTTPSConnection(host, port, timeout=PATIENCE_S, context=context)
            if self.proxy:
                secure.set_tunnel(self.host, self.port)
            return secure
        return http.client.HTTPConnection(host, port, timeout=PATIENCE_S)


def checks() -> list[Check]:
    return [name, proxy, certificate, clock]


def way_of(site: Site) -> Way | None:
    """None where the store is a folder."""
    parts = urlsplit(site.settings.store)
    if parts.scheme != "s3":
        return None
    words = parse_qs(parts.query)
    endpoint = urlsplit(
        words.get("endpoint", [f"https://s3.{words.get('region', ['us-east-1'])[0]}.amazonaws.com"])[0]
    )
    secure, host = endpoint.scheme == "https", endpoint.hostname or ""
    return Way(host, endpoint.port or (443 if secure else 80), secure, _proxy_of(site, endpoint.scheme, host))


def name(site: Site) -> Iterator[Row]:
    way = way_of(site)
    if way is None:
        yield Row("name", "ok", "the store is a folder: no name to look up")
    elif way.proxy:
        yield Row("name", "ok", f"{way.host} is looked up by the proxy")
    else:
        try:
            found = sorted({str(each[4][0]) for each in socket.getaddrinfo(way.host, way.port)})
        except OSError:
            cure = "correct the endpoint in site.yaml, or ask for the name in your DNS, or set proxy"
            yield Row("name", "fail", f"{way.host} has no address here", cure)
        else:
            yield Row("name", "ok", f"{way.host} is {', '.join(found[:4])}")


def proxy(site: Site) -> Iterator[Row]:
    way = way_of(site)
    if way is None or way.proxy is None:
        yield Row("proxy", "ok", "none is used")
        return
    host, port = way.proxy
    try:
        socket.create_connection((host, port), PATIENCE_S).close()
    except OSError as exc:
        cure = "correct proxy in site.yaml, or HTTPS_PROXY, or ask who runs it"
        yield Row("proxy", "fail", f"{host}:{port} does not answer ({exc.strerror or 'no answer'})", cure)
    else:
        yield Row("proxy", "ok", f"{host}:{port} answers")


def certificate(site: Site) -> Iterator[Row]:
    """Who vouches for the server: a public authority, the one of store_ca, or somebody in between."""
    way = way_of(site)
    if way is None:
        yield Row("certificate", "ok", "the store is a folder: no TLS")
        return
    if not way.secure:
        cure = "use https in the store's endpoint, unless the network is this machine's own"
        yield Row(
            "certificate",
            "warn",
            f"http to {way.host}: whoever is on the way reads what is not encrypted",
            cure,
        )
        return
    try:
        raw = _certificate(way, ssl._create_unverified_context())  # noqa: S323 - to name who signed it
    except OSError as exc:
        yield Row(
            "certificate",
            "fail",
            f"no TLS with {way.host}:{way.port} ({_why(exc)})",
            "open the firewall for it",
        )
        return
    found = x509.load_der_x509_certificate(raw)
    issuer, left = _issuer(found), found.not_valid_after_utc.timestamp() - time.time()
    try:
        _certificate(way, _trusting(site))
    except OSError as exc:
        yield Row("certificate", "fail", f"signed by {issuer!r}: {_why(exc)}", _cure(site, issuer, left))
        return
    if left < EXPIRES_SOON_S:
        yield Row(
            "certificate",
            "warn",
            f"signed by {issuer!r}, ends in {_span(left)}",
            "tell the store's owner",
        )
    else:
        yield Row("certificate", "ok", f"signed by {issuer!r}, good for {_span(left)} more")


def _span(seconds: float) -> str:
    return f"{seconds / 86400:.0f} days" if seconds >= 2 * 86400 else f"{seconds / 3600:.0f} hours"


def clock(site: Site) -> Iterator[Row]:
    """Compared with the store's server, which stamps every answer; a minute off, and requests are refused."""
    way = way_of(site)
    if way is None:
        yield Row("clock", "ok", "the store is a folder: its clock is this one")
        return
    try:
        server = _date(way)
    except (OSError, http.client.HTTPException, ValueError, TypeError) as exc:
        yield Row(
            "clock", "warn", f"the store's server does not tell the time ({_why(exc)})", "see the rows above"
        )
        return
    ahead = server - time.time()
    if abs(ahead) > SKEW_S:
        where = "ahead of" if ahead > 0 else "behind"
        yield Row(
            "clock", "fail", f"the store's clock is {abs(ahead):.0f} s {where} this one", "set both by NTP"
        )
    else:
        yield Row("clock", "ok", f"{abs(ahead):.0f} s from the store's")


def _certificate(way: Way, context: ssl.SSLContext) -> bytes:
    connection = way.connect(context)
    try:
        connection.connect()
        assert isinstance(connection.sock, ssl.SSLSocket)  # noqa: S101 - https
        return connection.sock.getpeercert(binary_form=True) or b""
    finally:
        connection.close()


def _date(way: Way) -> float:
    connection = way.connect(ssl._create_unverified_context())  # noqa: S323 - `certificate` is strict
    path = "/" if way.secure or not way.proxy else f"http://{way.host}:{way.port}/"
    try:
        connection.request("HEAD", path, headers={"Host": way.host})
        return parsedate_to_datetime(connection.getresponse().headers["Date"]).timestamp()
    finally:
        connection.close()


def _trusting(site: Site) -> ssl.SSLContext:
    """As botocore trusts: store_ca, or AWS_CA_BUNDLE, or its own list of public authorities."""
    bundle = site.settings.store_ca or os.environ.get("AWS_CA_BUNDLE") or os.environ.get("REQUESTS_CA_BUNDLE")
    if bundle is None:
        from botocore.httpsession import get_cert_path

        bundle = get_cert_path(True)
    return ssl.create_default_context(cafile=bundle)


def _cure(site: Site, issuer: str, left: float) -> str:
    if left <= 0:
        return "the certificate has ended, or this clock is wrong: look at both"
    if site.settings.store_ca:
        return f"{issuer!r} is not the authority of store_ca: somebody reads along, or the store has a new one; ask"
    return (
        f"if {issuer!r} is your institution's own (it opens and reads TLS), ask for an exception for the store, or "
        f"name its PEM file as store_ca; if it is the store's own, name that file"
    )


def _issuer(certificate: x509.Certificate) -> str:
    for oid in (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME):
        for attribute in certificate.issuer.get_attributes_for_oid(oid):
            return str(attribute.value)[:80]
    return "nobody"


def _why(exc: BaseException) -> str:
    """A library's short word on it; no address or value of ours is in it."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        return exc.verify_message
    return getattr(exc, "strerror", None) or type(exc).__name__


def _proxy_of(site: Site, scheme: str, host: str) -> tuple[str, int] | None:
    url = site.settings.proxy or (None if proxy_bypass(host) else getproxies().get(scheme))
    if not url:
        return None
    parts = urlsplit(url if "//" in url else f"//{url}")
    return (parts.hostname or "", parts.port or 3128)
