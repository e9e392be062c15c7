"""The event stream parser of completion.js, under node: however the bytes are cut."""

import json
import subprocess
from pathlib import Path

import llamaserver
import pytest

pytestmark = pytest.mark.browser

MODULE = Path(llamaserver.__file__).parent / "web" / "completion.js"
# Reads {source, parser, chunks} from stdin; prints the events. A data: URL, since .js is not a module to node.
HARNESS = """
import { readFileSync } from 'node:fs'
const { source, parser, chunks } = JSON.parse(readFileSync(0, 'utf8'))
const m = await import('data:text/javascript;base64,' + Buffer.from(source).toString('base64'))
const stream = new ReadableStream({
  start(controller) {
    for (const chunk of chunks) controller.enqueue(Uint8Array.from(chunk))
    controller.close()
  },
})
const events = []
for await (const event of m[parser](stream)) events.push(event)
console.log(JSON.stringify(events))
"""


def node(parser, *chunks: bytes):
    given = json.dumps({"source": MODULE.read_text(), "parser": parser, "chunks": [list(chunk) for chunk in chunks]})
    command = ["node", "--input-type=module", "--eval", HARNESS]
    return subprocess.run(command, input=given, capture_output=True, text=True, timeout=60, check=False)


def parse(*chunks: bytes, parser="serverSentEvents"):
    done = node(parser, *chunks)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def message(data, **fields):
    return {"event": "message", "id": "", "data": data, **fields}


STREAM = 'data: {"content":"é😀"}\r\n\r\n: ping\r\n\r\ndata: two\ndata:three\n\nevent: end\rid: 7\rdata\r\r'.encode()
EVENTS = [message('{"content":"é😀"}'), message("two\nthree"), message("", event="end", id="7")]


def test_lines_end_with_lf_cr_or_crlf():
    assert parse(STREAM) == EVENTS


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_the_cuts_between_chunks_do_not_matter(size):
    assert parse(*(STREAM[i : i + size] for i in range(0, len(STREAM), size))) == EVENTS


def test_one_space_after_the_colon_is_dropped():
    assert parse(b"data:  a: b \n\n") == [message(" a: b ")]


def test_an_event_without_its_blank_line_is_dropped():
    assert parse(b"data: whole\n\ndata: ha") == [message("whole")]
    assert parse(b"data: whole\n\ndata: half\n") == [message("whole")]


def test_json_is_parsed_and_the_closing_mark_left_out():
    assert parse(b'data: {"a":1}\n\ndata: [DONE]\n\n', parser="jsonEvents") == [message({"a": 1})]


def test_an_error_within_the_stream_is_thrown():
    done = node("jsonEvents", b'data: {"error":{"code":500,"message":"out of luck","type":"server_error"}}\n\n')
    assert done.returncode != 0
    assert "ServerError: out of luck" in done.stderr
