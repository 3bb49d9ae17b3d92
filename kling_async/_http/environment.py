"""What the environment says of the way to a server: proxies, and who is trusted.

The variables are those that `urllib.request` and OpenSSL read. What is wrong in one
of them is told by its name, before anything is sent.
"""

from __future__ import annotations

import ipaddress
import os
import re
import ssl
from pathlib import Path

import httpx

from kling_async._errors import ConfigurationError
from kling_async._http.library import HTTPLibrary

_DEFAULT_PORTS = {"http": 80, "https": 443}

# How OpenSSL finds a certificate in a folder: by the hash of its subject.
_HASHED = re.compile(r"[0-9a-f]{8}\.\d+")


def create_ssl_context(library: HTTPLibrary) -> ssl.SSLContext:
    """Make what all our connections trust servers by, as a library does.

    Raises:
        ConfigurationError: A variable names what is not there, or no certificates.
    """
    name = "SSL_CERT_FILE" if os.environ.get("SSL_CERT_FILE") else "SSL_CERT_DIR"
    try:
        if os.environ.get("SSL_CERT_FILE"):
            ssl.create_default_context(cafile=os.environ["SSL_CERT_FILE"])
        elif folders := os.environ.get("SSL_CERT_DIR"):
            _require_certificates(folders)
        name = "SSLKEYLOGFILE"
        return library.create_ssl_context()
    except OSError as error:  # as ssl.SSLError is
        keys = os.environ.get("SSLKEYLOGFILE")
        if name != "SSLKEYLOGFILE" and keys and error.filename == keys:
            name = "SSLKEYLOGFILE"
        raise ConfigurationError(
            f"the environment variable {name} is {os.environ.get(name)!r}, which "
            f"cannot be used: {error.strerror or error}. Correct it, or leave it unset",
        ) from error


def _require_certificates(folders: str) -> None:
    paths = [Path(it) for it in folders.split(os.pathsep) if it]
    files = [it.name for path in paths for it in path.iterdir()]
    if not any(map(_HASHED.fullmatch, files)):
        raise OSError("no certificate is there by the name that OpenSSL looks for")


def is_bypassed(url: httpx.URL, no_proxy: str) -> bool:
    """Whether ``NO_PROXY`` names a URL's host.

    Its entries are hosts, which stand for what is below them too, addresses, networks
    (``10.0.0.0/8``, ``fd00::/8``) or ``*``; a port behind one narrows it, and IPv6 may
    be in brackets.
    """
    port = url.port or _DEFAULT_PORTS.get(url.scheme)
    return any(
        _is_meant(url.host.lower(), port, entry)
        for entry in re.split(r"[\s,]+", no_proxy.lower())
        if entry
    )


def _is_meant(host: str, port: int | None, entry: str) -> bool:
    if entry == "*":
        return True
    bracketed = re.fullmatch(r"\[(.*)\](?::(\d+))?", entry)
    plain = re.fullmatch(r"([^:]+):(\d+)", entry)
    if found := bracketed or plain:
        name, only = found[1], found[2]
        if only is not None and int(only) != port:
            return False
    else:
        name = entry
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(name, strict=False)
    except (ValueError, TypeError):
        name = name.partition("://")[2] or name
        name = name.removeprefix("*").removeprefix(".").rstrip(".")
        return bool(name) and f".{host.rstrip('.')}".endswith(f".{name}")
