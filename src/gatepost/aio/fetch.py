"""Fetch a document by HTTP or HTTPS (httpx, decision 0008): asked only whether it changed, bounded in every way."""

import asyncio
import ssl
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final

import httpx

REDIRECTS_MAX: Final = 5
_MOVED: Final = frozenset((301, 302, 303, 307, 308))
_HEADERS: Final = {"User-Agent": "gatepost", "Accept": "*/*", "Accept-Encoding": "identity", "Connection": "close"}


class FetchFailed(Exception):
    """A document that could not be fetched whole; the text is for the operator."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A document as it came (never unpacked), and the validators to ask with the next time (RFC 9110 §8.8)."""

    octets: bytes
    etag: str = ""
    last_modified: str = ""
    type: str = ""
    """Its Content-Type."""


@dataclass(frozen=True, slots=True)
class Unchanged:
    """The document is the one that the validators name."""


async def fetch(
    url: str,
    *,
    most: int,
    within: float,
    tls: ssl.SSLContext,
    etag: str = "",
    last_modified: str = "",
    at: str = "",
    redirects: int = REDIRECTS_MAX,
) -> Fetched | Unchanged:
    """Fetch `url`: at most `most` octets, in `within` seconds in all; raises FetchFailed.

    With validators the server may answer that nothing changed. Redirects are followed, never from HTTPS to HTTP.
    Proxies named in the environment are not used. `at`, `ip:port`, is where to connect instead of looking the host
    up; the certificate must hold for the host of the URL all the same.
    """
    headers = dict(_HEADERS)
    if etag:
        headers["If-None-Match"] = etag
    if last_modified:
        headers["If-Modified-Since"] = last_modified
    try:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(asyncio.timeout(within))
            client = await stack.enter_async_context(
                httpx.AsyncClient(verify=tls, trust_env=False, timeout=within, headers=headers)
            )
            return await _get(client, _request(client, url, at), url, most, redirects)
    except TimeoutError:
        raise FetchFailed(f"{url}: not fetched within {within:g} s") from None
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, UnicodeError) as error:
        raise FetchFailed(f"{url}: {str(error) or type(error).__name__}") from error


async def post(url: str, octets: bytes, kind: str, *, within: float, tls: ssl.SSLContext, at: str = "") -> None:
    """POST octets of a media type to `url`, in `within` seconds in all; raises FetchFailed for all answers but 2xx.

    No redirect is followed, and nothing of the answer is read but its status. `at` as in `fetch`.
    """
    headers = _HEADERS | {"Content-Type": kind}
    try:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(asyncio.timeout(within))
            client = await stack.enter_async_context(
                httpx.AsyncClient(verify=tls, trust_env=False, timeout=within, headers=headers)
            )
            response = await client.send(_request(client, url, at, "POST", octets), stream=True)
            await response.aclose()
    except TimeoutError:
        raise FetchFailed(f"{url}: not taken within {within:g} s") from None
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, UnicodeError) as error:
        raise FetchFailed(f"{url}: {str(error) or type(error).__name__}") from error
    if not response.is_success:
        raise FetchFailed(f"{url}: the server says {response.status_code} {response.reason_phrase}")


def _request(
    client: httpx.AsyncClient, url: str, at: str, method: str = "GET", content: bytes | None = None
) -> httpx.Request:
    request = client.build_request(method, url, content=content)
    if not at:
        return request
    host = request.url.netloc.decode("ascii")
    moved = request.url.copy_with(netloc=at.encode("ascii"))
    names = {"sni_hostname": request.url.host}
    return client.build_request(method, moved, content=content, headers={"Host": host}, extensions=names)


async def _get(
    client: httpx.AsyncClient, request: httpx.Request, url: str, most: int, redirects: int
) -> Fetched | Unchanged:
    for _ in range(redirects + 1):
        response = await client.send(request, stream=True)
        try:
            if response.status_code in _MOVED and response.next_request is not None:
                request = _redirected(request, response.next_request)
                continue
            if response.status_code == 304:
                return Unchanged()
            if response.status_code != 200:
                raise FetchFailed(f"{url}: the server says {response.status_code} {response.reason_phrase}")
            return await _take(response, url, most)
        finally:
            await response.aclose()
    raise FetchFailed(f"{url}: more than {redirects} redirects")


def _redirected(before: httpx.Request, after: httpx.Request) -> httpx.Request:
    if after.url.scheme not in ("http", "https") or (before.url.scheme, after.url.scheme) == ("https", "http"):
        raise FetchFailed(f"{before.url}: redirected to {after.url}, which is not followed")
    return after


async def _take(response: httpx.Response, url: str, most: int) -> Fetched:
    too_much = FetchFailed(f"{url}: more than {most} octets")
    announced = response.headers.get("Content-Length", "")
    if announced.isdecimal() and int(announced[:20]) > most:
        raise too_much
    pieces, size = [], 0
    async for piece in response.aiter_raw():
        size += len(piece)
        if size > most:
            raise too_much
        pieces.append(piece)
    return Fetched(
        b"".join(pieces),
        response.headers.get("ETag", "")[:1000],
        response.headers.get("Last-Modified", "")[:100],
        response.headers.get("Content-Type", "")[:200],
    )
