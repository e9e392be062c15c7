"""A mirror of Hugging Face on this machine: files of repositories at the hub's paths.

It logs every request. It can require a token, fail, and stop transfers in the middle.
"""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit

_CHUNK = 1 << 20
_PAGE = b"<!DOCTYPE html>\n<title>Sign in</title>"
_RANGE = re.compile(r"bytes=(\d+)-")


@dataclass(frozen=True)
class Request:
    """One request, as it came."""

    method: str
    path: str  # REPO/resolve/REVISION/FILE
    start: int  # first byte asked for
    token: str


class Hub:
    """Serves the added files on 127.0.0.1 until the `with` block ends."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self._files: dict[str, Path] = {}
        self._tokens: dict[str, str] = {}
        self._gates: dict[str, threading.Event] = {}
        self._failing: dict[str, int] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self.url = f"http://127.0.0.1:{self.port}"  # as clients reach it. A forwarder of the port replaces it

    def add(self, repo: str, revision: str, file: str, content: Path, *, token: str = "") -> str:
        """Add a file to a repository. With a token, only requests that have it get the file. Returns the file's URL."""
        path = f"{repo}/resolve/{revision}/{file}"
        self._files[path], self._tokens[path] = content, token
        return f"{self.url}/{path}"

    def content(self, repo: str, revision: str, file: str) -> Path:
        """The file of a name."""
        return self._files[f"{repo}/resolve/{revision}/{file}"]

    def downloads(self, repo: str) -> list[Request]:
        """The downloads from a repository so far."""
        return [each for each in self.requests if each.method == "GET" and each.path.startswith(f"{repo}/")]

    @contextmanager
    def held(self, repo: str) -> Iterator[None]:
        """No transfer from a repository gets beyond the middle of its file until the block ends."""
        gate = self._gates[repo] = threading.Event()
        try:
            yield
        finally:
            gate.set()
            del self._gates[repo]

    @contextmanager
    def failing(self, repo: str, status: int = 503) -> Iterator[None]:
        """Every request for a repository gets this status until the block ends; with 200, a web page comes."""
        self._failing[repo] = status
        try:
            yield
        finally:
            del self._failing[repo]

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle(self) -> None:
                with suppress(ConnectionError):  # the client has left
                    super().handle()

            def do_GET(self) -> None:
                hub._answer(self)

            def do_HEAD(self) -> None:
                hub._answer(self)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                """Say nothing."""

        return Handler

    def _answer(self, client: BaseHTTPRequestHandler) -> None:
        path = unquote(urlsplit(client.path).path).lstrip("/")
        asked = _RANGE.fullmatch(client.headers.get("Range", ""))
        token = client.headers.get("Authorization", "").removeprefix("Bearer ")
        request = Request(client.command, path, int(asked[1]) if asked else 0, token)
        self.requests.append(request)
        status = self._failing.get(path.partition("/resolve/")[0])
        if status == 200:
            _send_page(client)
        elif status:
            client.send_error(status)
        elif path not in self._files:
            client.send_error(404)
        elif self._tokens[path] not in ("", token):
            client.send_error(401)
        else:
            self._send(client, request, self._files[path])

    def _send(self, client: BaseHTTPRequestHandler, request: Request, content: Path) -> None:
        size = content.stat().st_size
        tag = f'"{content.stat().st_mtime_ns}-{size}"'
        if client.headers.get("If-None-Match") == tag:
            client.send_response(304)
            client.end_headers()
            return
        client.send_response(206 if request.start else 200)
        client.send_header("ETag", tag)
        client.send_header("Content-Length", str(size - request.start))
        if request.start:
            client.send_header("Content-Range", f"bytes {request.start}-{size - 1}/{size}")
        client.end_headers()
        if request.method == "HEAD":
            return
        gates = [gate for repo, gate in list(self._gates.items()) if request.path.startswith(f"{repo}/")]
        with content.open("rb") as file:
            file.seek(request.start)
            for gate in gates:
                client.wfile.write(file.read(max(0, size // 2 - request.start)))
                gate.wait()
            while chunk := file.read(_CHUNK):
                client.wfile.write(chunk)


def _send_page(client: BaseHTTPRequestHandler) -> None:
    client.send_response(200)
    client.send_header("Content-Type", "text/html; charset=utf-8")
    client.send_header("Content-Length", str(len(_PAGE)))
    client.end_headers()
    if client.command == "GET":
        client.wfile.write(_PAGE)
