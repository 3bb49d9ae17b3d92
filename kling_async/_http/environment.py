"""The environment's settings for connections: proxies and trusted certificates.

The variables are those of `urllib.request` and OpenSSL. An error about one names it,
and is raised before anything is sent.
"""

from __future__ import annotations

import ipaddress
import os
import re
import ssl
from functools import lru_cache
from pathlib import Path

import httpx

from kling_async._checks import PORTS
from kling_async._errors import ConfigurationError
from kling_async._http.library import HTTPLibrary, library_named

# What httpx and OpenSSL read of whom to trust, and where to write keys.
_TRUST = ("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE")


# How OpenSSL finds a certificate in a folder: by the hash of its subject.
_HASHED = re.compile(r"[0-9a-f]{8}\.\d+")


def create_ssl_context(library: HTTPLibrary) -> ssl.SSLContext:
    """Give what all our connections trust servers by, made as a library makes it.

    Clients share it: to read the certificates takes longer than all else of a client.

    Raises:
        ConfigurationError: A variable names what is not there, or no certificates.
    """
    file, folders, keys = (os.environ.get(name, "") for name in _TRUST)
    name = "SSL_CERT_FILE" if file else "SSL_CERT_DIR"
    try:
        if folders and not file:
            _require_certificates(folders)
        changed = Path(file).stat().st_mtime_ns if file else 0
        return _read_certificates(library.__name__, file, folders, keys, changed)
    except OSError as error:  # as ssl.SSLError is
        if keys and error.filename == keys:
            name = "SSLKEYLOGFILE"
        if name not in os.environ:
            raise
        raise ConfigurationError(
            f"the environment variable {name} is {os.environ[name]!r}, which "
            f"cannot be used: {error.strerror or error}. Correct it, or leave it unset",
        ) from error


@lru_cache(maxsize=8)
def _read_certificates(library: str, *_: object) -> ssl.SSLContext:
    return library_named(library).create_ssl_context()


def _require_certificates(folders: str) -> None:
    paths = [Path(it) for it in folders.split(os.pathsep) if it]
    files = [it.name for path in paths for it in path.iterdir()]
    if not any(map(_HASHED.fullmatch, files)):
        raise OSError("it has no certificate with the name that OpenSSL looks for")


def is_bypassed(url: httpx.URL, no_proxy: str) -> bool:
    """Whether ``NO_PROXY`` names a URL's host.

    Its entries are hosts with their subdomains, addresses, networks (``10.0.0.0/8``,
    ``fd00::/8``) or ``*``, each with an optional port; IPv6 may be in brackets.
    """
    port = url.port or PORTS.get(url.scheme)
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
