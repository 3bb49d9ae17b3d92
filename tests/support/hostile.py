"""What strangers say: texts that steer, URLs with a password, hosts in disguise."""

from __future__ import annotations

import ipaddress
import unicodedata
from collections.abc import Iterator

PIECES = [
    "\x1b]0;owned\x07",
    "\x1b[2J",
    "\x9b31m",
    "\x08\x7f\x00",
    "\r\n",
    "\n  - ",
    "\nERROR:root:forged",
    "\u2028\u2029\x85\x0b\x0c",
    "\u202e\u2066gpj.exe",
    "\ud800",
    "\U000e0041",
    "[bold red]x[/]",
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "javascript:alert(1)",
    "//evil.example/x",
    "=HYPERLINK(1)",
    "%s %(x)s %n",
    "{{cards}}",
    "data: x\n\nevent: status\n",
]

JOINERS = "\u200c\u200d"


def is_plain(line: str) -> bool:
    """Whether nothing in a line does anything but stand there."""
    return all(
        it in JOINERS or unicodedata.category(it)[0] not in "CZ" or it == " "
        for it in line
    )


SECRET = "s3cret"

# Where a URL can hold a password, and where a slip of the finger puts it.
ADDRESSES = [
    f"postgresql://me:{SECRET}@127.0.0.1:1/jobs",
    f"postgresql://me@127.0.0.1:1/jobs?password={SECRET}",
    f"postgresql://me@127.0.0.1:1/jobs?sslmode=disable&password={SECRET}",
    f"postgresql:///jobs?host=127.0.0.1&port=1&user=me&password={SECRET}",
    f"postgresql://me@127.0.0.1:1/jobs?passwort={SECRET}",
    f"postgresql://me@127.0.0.1:1/jobs?sslpassword={SECRET}",
    f"postgresql://me@127.0.0.1:1/jobs?options=-c%20a.b%3D{SECRET}",
    f"postgresql://me:%73{SECRET[1:]}@127.0.0.1:1/jobs",
    f"postgresql://me%3A{SECRET}@127.0.0.1:1/jobs",
    f"postgresql://me:a@{SECRET}@127.0.0.1:1/jobs",
    f"postgresql://me:a/{SECRET}@127.0.0.1:1/jobs",
    f"postgresql://me:a?{SECRET}@127.0.0.1:1/jobs",
    f"postgresql://me:a#{SECRET}@127.0.0.1:1/jobs",
    f"postgresql://me/:{SECRET}@127.0.0.1:1/jobs",
    f"postgresql:/me:{SECRET}@127.0.0.1:1/jobs",
    f"postgresql:me:{SECRET}@127.0.0.1:1/jobs",
    f"postgresql//me:{SECRET}@127.0.0.1:1/jobs",
    f"postgres://me:{SECRET}%40127.0.0.1:1/jobs",
    f"me:{SECRET}@127.0.0.1:1/jobs",
    f"postgresql://127.0.0.1:{SECRET}/jobs",
    f"postgresql://127.0.0.1:1/jobs;password={SECRET}",
    f"postgresql://127.0.0.1:1/jobs&password={SECRET}",
    f"host=127.0.0.1 port=1 dbname=jobs user=me password={SECRET}",
    f"host=127.0.0.1 password = '{SECRET}' dbname=jobs",
    f"mysql://127.0.0.1/jobs?password={SECRET}",
    f"mysql://me:{SECRET}@127.0.0.1/jobs",
    f"sqlite://:{SECRET}@/jobs.db",
    f"sqlite+pysqlcipher://:{SECRET}@/jobs.db?cipher=aes",
]

V4 = ipaddress.IPv4Address
V6 = ipaddress.IPv6Address


def disguises(inner: V4) -> Iterator[str]:
    """Give every IPv6 address from which packets may get to an IPv4 one."""
    low = int(inner)
    yield str(inner)
    yield f"::ffff:{inner}"  # mapped
    yield f"::{inner}"  # compatible
    yield f"::ffff:0:{inner}"  # translated (RFC 2765)
    yield str(V6(int(V6("64:ff9b::")) | low))  # NAT64
    yield str(V6(int(V6("64:ff9b:1::")) | low))  # NAT64 of a network's own
    yield str(V6(int(V6("2002::")) | low << 80))  # 6to4
    yield str(V6(int(V6("2001::")) | low << 64))  # Teredo, the server
    yield str(V6(int(V6("2001::")) | (low ^ 0xFFFFFFFF)))  # Teredo, the client
    for marked in ("0:5efe", "200:5efe"):  # ISATAP
        yield str(V6(int(V6(f"2606:2800:220:1:{marked}::")) | low))
