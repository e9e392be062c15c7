"""A reverse proxy that shows a server below a path, as ingresses do."""

from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import urlsplit


@contextmanager
def below(prefix: str, url: str) -> Iterator[str]:
    """The address where the server is seen. A path that does not begin with the prefix is 404."""
    host = urlsplit(url).netloc

    class Relay(BaseHTTPRequestHandler):
        def relay(self) -> None:
            if not self.path.startswith(f"{prefix}/"):
                self.send_error(404)
                return
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            upstream = HTTPConnection(host, timeout=120)
            upstream.request(self.command, self.path.removeprefix(prefix), body or None, dict(self.headers.items()))
            answer = upstream.getresponse()
            self.send_response_only(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("transfer-encoding", "connection"):
                    self.send_header(name, value)
            self.end_headers()
            while data := answer.read1():
                self.wfile.write(data)
                self.wfile.flush()
            upstream.close()

        do_GET = do_POST = relay  # noqa: N815  # http.server's names

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Relay) as relay:
        Thread(target=relay.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{relay.server_port}{prefix}"
        relay.shutdown()
