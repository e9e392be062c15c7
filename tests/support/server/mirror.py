"""A mirror of one model over HTTP: a plain URL, and a Hugging Face repository `who/what`.

A gate holds transfers back after their first bytes, so that a test can look at a loading server.
"""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self

_FIRST = 1 << 20  # bytes before the gate


class Mirror:
    """Serves `model` until the `with` block ends; remembers (path, Range, Authorization) of each request."""

    def __init__(self, model: Path, *, gated: bool = False, sha256: str = "") -> None:
        self.data = model.read_bytes()
        self.version = 1
        self.failures = 0  # requests for the plain URL that get 500 before it works
        self.sha256 = sha256 or hashlib.sha256(self.data).hexdigest()  # what the hub claims
        self.files = ["README.md", "model-Q4_1.gguf", "model-Q8_0.gguf"]
        self.requests: list[tuple[str, str, str]] = []
        self._gate = threading.Event()
        if not gated:
            self._gate.set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def repair(self, model: Path) -> None:
        """Have another file under the same URLs."""
        self.data, self.version = model.read_bytes(), self.version + 1

    def release(self) -> None:
        """Let held transfers go on."""
        self._gate.set()

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._gate.set()
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        mirror = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                mirror._answer(self)

            def do_HEAD(self) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(mirror.data)))
                self.end_headers()

            def log_message(self, *args: object) -> None:
                """Say nothing."""

        return Handler

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        path = request.path
        self.requests.append((path, request.headers.get("Range", ""), request.headers.get("Authorization", "")))
        if path.startswith("/api/models/who/what/"):
            self._send(request, json.dumps({"siblings": [{"rfilename": name} for name in self.files]}).encode())
        elif path.startswith("/who/what/resolve/main/"):
            request.send_response(302)
            request.send_header("X-Linked-Etag", f'"{self.sha256}"')
            request.send_header("Location", f"{self.url}/blob")
            request.send_header("Content-Length", "0")
            request.end_headers()
        elif path == "/model.gguf" and self.failures:
            self.failures -= 1
            request.send_error(500)
        elif path in ("/blob", "/model.gguf"):
            self._send(request, self.data)
        elif path.startswith("/answers/"):
            request.send_error(int(path.split("/")[2]))
        elif path == "/untold.gguf":  # without a length: the connection's end is the file's
            request.send_response(200)
            request.end_headers()
            try:
                request.wfile.write(self.data)
            except ConnectionError:
                return
        elif path == "/huge.gguf":
            request.send_response(200)
            request.send_header("Content-Length", str(1 << 60))
            request.end_headers()
        else:
            request.send_error(404)

    def _send(self, request: BaseHTTPRequestHandler, data: bytes) -> None:
        tag = f'"version-{self.version}"'
        if request.headers.get("If-None-Match") == tag:
            request.send_response(304)
            request.end_headers()
            return
        asked = request.headers.get("Range", "bytes=0-")
        start = int(asked.removeprefix("bytes=").removesuffix("-"))
        request.send_response(206 if "Range" in request.headers else 200)
        request.send_header("ETag", tag)
        request.send_header("Content-Length", str(len(data) - start))
        if "Range" in request.headers:
            request.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        request.end_headers()
        try:
            request.wfile.write(data[start : start + _FIRST])
            self._gate.wait()
            request.wfile.write(data[start + _FIRST :])
        except ConnectionError:
            return  # the client has left
