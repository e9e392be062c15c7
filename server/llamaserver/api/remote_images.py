"""Images that a request names by http or https URLs. They are fetched before the request is read further.

Each URL becomes the image itself as base64, so that nothing behind this module knows of URLs. The event loop waits for
the bytes, and a worker thread finds the URLs and puts the images into their places.
"""

import asyncio
import base64
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

import aiohttp
from yarl import URL

from ..errors import InvalidRequest
from ..models.http_failures import FAILURES, explain
from .body_bytes import Hold
from .image_hosts import ImageHosts
from .lanes import cancelled

MAX_URLS = 16  # different ones in a request
MAX_BYTES = 10 << 20  # of one image, as in llama-server
_SECONDS = 10  # for one image, as in llama-server
_MOST_REDIRECTS = 3
_AT_ONCE = 4  # images of one client
_PARTS = ("messages", "input", "content", "output", "source")  # members of bodies that hold parts of a content
_REDIRECTS = (301, 302, 303, 307, 308)

Urls = dict[str, str]  # with the field that has each one first


class RemoteImages:
    """Fetches images from the hosts of --image-hosts. Used on the event loop's thread only."""

    def __init__(self, hosts: ImageHosts) -> None:
        self._hosts = hosts
        self._turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()  # by client

    async def fetch(self, urls: Urls, client: str, hold: Hold) -> dict[str, bytes]:
        """The images by their URLs. Their bytes are held. Raises InvalidRequest with the name of the field."""
        if not urls:
            return {}
        turns = self._turns.setdefault(client, asyncio.Semaphore(_AT_ONCE))
        images: dict[str, bytes] = {}
        async with self._session() as session:
            for url, field in urls.items():
                try:
                    async with turns, asyncio.timeout(_SECONDS):
                        images[url] = await self._image(session, URL(url), hold)
                except InvalidRequest as error:
                    raise _refused(field, error.message) from error
                except TimeoutError as error:
                    raise _refused(field, f"no whole image came in {_SECONDS} seconds") from error
                except FAILURES as error:
                    raise _refused(field, explain(error)) from error
        return images

    def _session(self) -> aiohttp.ClientSession:
        """A client that uses no proxy, because a proxy would connect to any address."""
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(socket_factory=self._hosts.socket),
            headers={"Accept-Encoding": "identity"},
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def _image(self, session: aiohttp.ClientSession, url: URL, hold: Hold) -> bytes:
        for _ in range(_MOST_REDIRECTS + 1):
            self._hosts.check(url)
            async with session.get(url, allow_redirects=False) as answer:
                place = answer.headers.get("Location")
                if answer.status in _REDIRECTS and place:
                    url = url.join(URL(place))
                    continue
                if answer.status != 200:
                    raise InvalidRequest(f"{url.raw_host} answered {answer.status}")
                return await _body(answer, hold)
        raise InvalidRequest(f"{url.raw_host} redirects more than {_MOST_REDIRECTS} times")


async def _body(answer: aiohttp.ClientResponse, hold: Hold) -> bytes:
    data = bytearray()
    async for piece in answer.content.iter_any():
        hold.add(len(piece))
        data += piece
        if len(data) > MAX_BYTES:
            raise InvalidRequest(f"the image has more than {MAX_BYTES} bytes")
    return bytes(data)


def _refused(field: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"Field '{field}': {why}", field=field)


# ---- any thread


@dataclass(frozen=True, slots=True)
class _Place:
    """A part of a content that has a URL."""

    url: str
    field: str
    part: dict[str, Any]

    def put(self, data: str) -> None:
        """Replace the URL by the image as base64."""
        if self.part.get("type") == "url":  # Anthropic's form
            self.part.update(type="base64", data=data)
        else:
            self.part["image_url"] = f"data:;base64,{data}"


def image_urls(value: Any) -> Urls:
    """The URLs of images in a parsed body. Raises InvalidRequest if there are too many."""
    urls: Urls = {}
    for place in _places(value):
        urls.setdefault(place.url, place.field)
        if len(urls) > MAX_URLS:
            raise _refused(place.field, f"at most {MAX_URLS} images of a request can have URLs")
    return urls


def put_images(value: Any, images: Mapping[str, bytes], most: int) -> None:
    """Put images into the places of their URLs in a parsed body. Raises InvalidRequest for more bytes than `most`."""
    if not images:
        return
    encoded: dict[str, str] = {}
    for place in list(_places(value)):
        most -= len(images[place.url])
        if most < 0:
            raise _refused(place.field, "the images of the request have more bytes than a body may have (--max-body)")
        if place.url not in encoded:
            encoded[place.url] = base64.b64encode(images[place.url]).decode()
        place.put(encoded[place.url])


def _places(value: Any) -> Iterator[_Place]:
    waiting = deque([(value, "")])
    while waiting:
        if cancelled():
            raise CancelledError
        one, where = waiting.popleft()
        if isinstance(one, list):
            waiting += [(item, f"{where}[{i}]") for i, item in enumerate(one) if isinstance(item, dict | list)]
        elif isinstance(one, dict):
            yield from _urls(one, where)
            inside = ((name, one[name]) for name in _PARTS if isinstance(one.get(name), dict | list))
            waiting += [(item, f"{where}.{name}".lstrip(".")) for name, item in inside]


def _urls(part: dict[str, Any], where: str) -> Iterator[_Place]:
    kind, name = part.get("type"), ""
    url: Any = None
    if kind in ("image_url", "input_image"):
        url, name = part.get("image_url"), "image_url"
        url = url.get("url") if isinstance(url, dict) else url
    elif kind == "url":
        url, name = part.get("url"), "url"
    if isinstance(url, str) and url[:8].lower().startswith(("http://", "https://")):
        yield _Place(url, f"{where}.{name}", part)
