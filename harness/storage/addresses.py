"""Open addresses of the web and of S3. Other schemes, and redirects to them, are refused."""

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
    """Return whether a text is an address. Anything else is a path on this machine."""
    return "://" in text


def scheme_of(address: str, allowed: tuple[str, ...] = SCHEMES) -> str:
    """Return the scheme of an address. Raises HarnessError for a scheme that is not allowed.

    >>> scheme_of("https://host/pack")
    'https'
    """
    scheme = address.partition("://")[0].lower()
    if scheme not in allowed:
        known = ", ".join(f"{each}://" for each in allowed)
        raise HarnessError(
            f"{address[:200]!r} has a scheme that is not allowed: expected one of {known}, or a path on this machine"
        )
    return scheme


@contextmanager
def open_address(address: str) -> Iterator[IO[bytes]]:
    """Open the bytes at an address.

    Raises HarnessError as `scheme_of` and `open_url`, and OSError, ValueError or HTTPException if the address cannot be read.
    """
    if scheme_of(address) == "s3":
        with _from_s3(address) as file:
            yield file
    else:
        with open_url(address) as answer:
            yield answer


def open_url(address: str, headers: Mapping[str, str] | None = None) -> Any:
    """Return the response of a web server.

    Raises HarnessError if the address or a redirect is not of the web, or if a redirect leads from https to http.
    """
    scheme_of(address, WEB_SCHEMES)
    opener = OpenerDirector()
    # urllib's default opener also reads ftp:, file: and data:.
    for handler in (ProxyHandler, HTTPHandler, HTTPSHandler, HTTPDefaultErrorHandler, HTTPErrorProcessor, WebRedirects):
        opener.add_handler(handler())
    return opener.open(Request(address, headers=USER_AGENT | dict(headers or {})), timeout=TIMEOUT_SECONDS)


class WebRedirects(HTTPRedirectHandler):
    """Follow redirects only within the web, and never from https to http."""

    def http_error_302(self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage) -> Any:
        """Follow a redirect, or raise HarnessError."""
        target = headers.get("location") or headers.get("uri") or ""
        scheme = urlsplit(target).scheme.lower() or req.type
        if scheme not in WEB_SCHEMES or (req.type == "https" and scheme == "http"):
            raise HarnessError(f"{req.full_url} redirects to {target[:200]!r}, which is not followed: expected {req.type}://")
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


@contextmanager
def _from_s3(address: str) -> Iterator[IO[bytes]]:
    """Open the output of the command `aws`, which runs without a shell. Raises OSError with the end of its output if it fails."""
    with (
        TemporaryFile() as errors,
        subprocess.Popen(
            ["aws", "s3", "cp", address, "-"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
        ) as aws,
    ):
        try:
            yield cast("IO[bytes]", aws.stdout)
        except BaseException:  # also when the reader stops early
            aws.kill()
            raise
        if aws.wait():
            errors.seek(0)
            words = errors.read().decode(errors="replace").split()
            raise OSError(f"aws s3 cp ended with status {aws.returncode}: {' '.join(words)[-300:]}")
