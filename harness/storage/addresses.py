"""Addresses: which of them are read, and how. Every other scheme is refused, and so is a redirect to one."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPMessage
from tempfile import TemporaryFile
from typing import IO, Any, cast
from urllib.parse import urlsplit
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
)

from harness.core.errors import HarnessError

WEB_SCHEMES = ("https", "http")
SCHEMES = (*WEB_SCHEMES, "s3")
TIMEOUT_SECONDS = 30
USER_AGENT = {"User-Agent": "flickr30k-harness"}


def is_address(text: str) -> bool:
    """Whether a text is an address; anything else is a path on this machine."""
    return "://" in text


def scheme_of(address: str, allowed: tuple[str, ...] = SCHEMES) -> str:
    """The scheme of an address. Raises HarnessError for one that is not read, whatever library could read it.

    >>> scheme_of("https://host/pack")
    'https'
    """
    scheme = address.partition("://")[0].lower()
    if scheme not in allowed:
        known = ", ".join(f"{each}://" for each in allowed)
        raise HarnessError(f"{address[:200]!r} is no address that is read: expected one of {known}, or a path on this machine")
    return scheme


@contextmanager
def open_address(address: str) -> Iterator[IO[bytes]]:
    """The bytes at an address.

    Raises HarnessError as `scheme_of` and `open_url` do; OSError, ValueError or HTTPException if the address cannot be read.
    """
    if scheme_of(address) == "s3":
        with _from_s3(address) as file:
            yield file
    else:
        with open_url(address) as answer:
            yield answer


def open_url(address: str, headers: Mapping[str, str] | None = None) -> Any:
    """The answer of a web server.

    Raises HarnessError if the address, or one that the server redirects to, is not of the web, or if a redirect leaves https.
    """
    scheme_of(address, WEB_SCHEMES)
    opener = OpenerDirector()
    # urllib's own opener also knows ftp:, file: and data:.
    for handler in (ProxyHandler, HTTPHandler, HTTPSHandler, HTTPDefaultErrorHandler, HTTPErrorProcessor, WebRedirects):
        opener.add_handler(handler())
    return opener.open(Request(address, headers=USER_AGENT | dict(headers or {})), timeout=TIMEOUT_SECONDS)


class WebRedirects(HTTPRedirectHandler):
    """Redirects that stay on the web, and on https where they began there."""

    def http_error_302(self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage) -> Any:
        """Follow one."""
        target = headers.get("location") or headers.get("uri") or ""
        scheme = urlsplit(target).scheme.lower() or req.type
        if scheme not in WEB_SCHEMES or (req.type == "https" and scheme == "http"):
            raise HarnessError(f"{req.full_url} redirects to {target[:200]!r}, which is not followed: expected {req.type}://")
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


@contextmanager
def _from_s3(address: str) -> Iterator[IO[bytes]]:
    """What the command `aws` copies from there; no shell reads the address. Raises OSError with its last words if it fails."""
    with (
        TemporaryFile() as said,
        subprocess.Popen(["aws", "s3", "cp", address, "-"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said) as aws,
    ):
        try:
            yield cast("IO[bytes]", aws.stdout)
        except BaseException:  # also of a reader that has seen enough
            aws.kill()
            raise
        if aws.wait():
            said.seek(0)
            words = said.read().decode(errors="replace").split()
            raise OSError(f"aws s3 cp ends with status {aws.returncode}: {' '.join(words)[-300:]}")
