"""What tests say to a server: JSON in, JSON or events out, and counters."""

import json
import re
import socket
from collections.abc import Iterator
from typing import Any, Self

import httpx2


class Client:
    """One server's HTTP API. Answers are checked to be 200 unless `status` says otherwise."""

    def __init__(self, url: str, key: str = "", **options: Any) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.url = url
        self.http = httpx2.Client(base_url=url, headers=headers, timeout=120, trust_env=False, **options)

    def get(self, path: str, status: int = 200, **query: Any) -> Any:
        """GET a JSON document."""
        answer = self.http.get(path, params=query or None)
        assert answer.status_code == status, answer.text
        return answer.json()

    def post(self, path: str, body: Any = None, status: int = 200, **fields: Any) -> Any:
        """POST fields as JSON, get JSON."""
        answer = self.http.post(path, json=fields if body is None else body)
        assert answer.status_code == status, answer.text
        return answer.json()

    def complete(self, prompt: Any, **fields: Any) -> Any:
        """POST /completion at temperature 0 unless the fields say otherwise."""
        return self.post("/completion", {"prompt": prompt, "temperature": 0, "n_predict": 8, **fields})

    def events(self, path: str, **fields: Any) -> list[Any]:
        """POST with `stream`, all events parsed; the final [DONE] stays a string."""
        with self.http.stream("POST", path, json={"stream": True, **fields}) as answer:
            assert answer.status_code == 200, answer.read()
            assert answer.headers["content-type"].startswith("text/event-stream")
            return list(read_events(answer.iter_lines()))

    def error(self, path: str, body: Any, status: int = 400) -> Any:
        """POST what must be refused; checks the error format and returns the error."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer = self.http.post(path, content=content)
        assert answer.status_code == status, (answer.status_code, answer.text)
        error = answer.json()["error"]
        assert error["code"] in (status, "context_length_exceeded")
        assert error["message"]
        assert error["type"]
        return error

    def metric(self, name: str) -> float:
        """One sample of /metrics."""
        text = self.http.get("/metrics").text
        found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.M)
        assert found, f"{name} is not in /metrics"
        return float(found[1])

    def slots(self) -> list[Any]:
        """GET /slots."""
        answer: list[Any] = self.get("/slots")
        return answer


def read_events(lines: Iterator[str]) -> Iterator[Any]:
    """The data of server-sent events; comments are dropped."""
    for line in lines:
        if line.startswith("data: "):
            data = line[len("data: ") :]
            yield data if data == "[DONE]" else json.loads(data)


class Abandoned:
    """A request whose client reads nothing and goes away on leaving the block."""

    def __init__(self, client: Client, body: dict[str, Any], path: str = "/completion") -> None:
        host, port = client.url.removeprefix("http://").split(":")
        self.socket = socket.create_connection((host, int(port)))
        data = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(data)}\r\n\r\n"
        self.socket.sendall(head.encode() + data)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()
