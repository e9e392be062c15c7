"""Logs: a JSON object or a line of text for each event, on stdout and in a file."""

import contextlib
import json
import logging
import re
import subprocess
import sys

import pytest
from llamaserver import logs
from llamaserver.config import Config


@pytest.fixture
def configured(tmp_path, monkeypatch, capsys):
    """Configure the root logger for one test, in an empty folder; lines() reads what it wrote."""
    monkeypatch.chdir(tmp_path)
    root = logging.getLogger()
    before, level, raising = root.handlers[:], root.level, logging.raiseExceptions

    def configure(**options):
        logs.configure(Config(model="m", **options))
        return lambda: [*capsys.readouterr().out.splitlines()]

    yield configure
    for handler in root.handlers[:]:
        root.removeHandler(handler)
        if handler not in before:
            with contextlib.suppress(OSError):  # /dev/full
                handler.close()
    root.handlers[:] = before
    root.setLevel(level)
    logging.raiseExceptions = raising


def test_json_lines_on_stdout_and_the_same_in_llama_log(configured, tmp_path):
    lines = configured()
    logging.getLogger("a.b").warning("%d things\nin two lines", 3, extra={"fields": {"slot": 7}})
    (line,) = lines()
    record = json.loads(line)
    assert isinstance(record.pop("timestamp"), float)
    assert record == {"level": "WARNING", "logger": "a.b", "msg": "3 things\nin two lines", "slot": 7}
    assert (tmp_path / "llama.log").read_text() == line + "\n"


def test_an_exception_is_part_of_its_line(configured):
    lines = configured()
    try:
        raise ValueError("why")
    except ValueError:
        logging.getLogger("a").exception("it failed")
    (line,) = lines()
    assert "ValueError: why" in json.loads(line)["exception"]


def test_text_lines(configured, tmp_path):
    lines = configured(log_format="text")
    logging.getLogger("a.b").error("bad %s", "luck")
    (line,) = lines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ ERROR   a\.b: bad luck", line)
    assert (tmp_path / "llama.log").read_text() == line + "\n"


def test_log_disable_writes_no_file(configured, tmp_path):
    lines = configured(log_disable=True)
    logging.getLogger("a").info("hello")
    assert len(lines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_another_log_file(configured, tmp_path):
    configured(log_file="other.log")
    logging.getLogger("a").info("hello")
    assert "hello" in (tmp_path / "other.log").read_text()
    assert not (tmp_path / "llama.log").exists()


def test_a_later_start_appends(configured, tmp_path):
    configured()
    logging.getLogger("a").info("first")
    configured()
    logging.getLogger("a").info("second")
    assert [json.loads(line)["msg"] for line in (tmp_path / "llama.log").read_text().splitlines()] == [
        "first",
        "second",
    ]


@pytest.mark.parametrize("file", ["no/such/folder/llama.log", "/proc/llama.log", "."])
def test_a_file_that_cannot_be_written_costs_one_warning(configured, file):
    lines = configured(log_file=file)
    logging.getLogger("a").info("goes on")
    warning, line = map(json.loads, lines())
    assert warning["level"] == "WARNING"
    assert "cannot write the log file" in warning["msg"]
    assert line["msg"] == "goes on"


def test_a_full_disk_under_the_file_costs_nothing_else(configured, capsys):
    lines = configured(log_file="/dev/full")
    for number in range(3):
        logging.getLogger("a").info("%d", number)
    assert [json.loads(line)["msg"] for line in lines()] == ["0", "1", "2"]
    assert capsys.readouterr().err == ""


def test_verbose_adds_debug(configured):
    lines = configured(verbose=False)
    logging.getLogger("a").debug("quiet")
    assert lines() == []
    lines = configured(verbose=True)
    logging.getLogger("a").debug("loud")
    assert json.loads(lines()[0])["level"] == "DEBUG"


def test_values_that_json_has_not(configured):
    lines = configured()
    logging.getLogger("a").info("x", extra={"fields": {"path": logging}})
    assert "module" in json.loads(lines()[0])["path"]


@pytest.mark.parametrize("form", ["json", "text"])
@pytest.mark.parametrize("locale", ["C", "C.UTF-8", "POSIX"])
def test_no_byte_costs_a_line_whatever_the_locale(form, locale, tmp_path):
    code = (
        "import logging; from llamaserver import logs; from llamaserver.config import Config;"
        f"logs.configure(Config(model='m', log_format={form!r}));"
        "logging.info('%s', b'\\xff/\\xc3\\xa9'.decode('utf-8', 'surrogateescape'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, cwd=tmp_path, env={"LC_ALL": locale}, check=True
    )
    assert b"\\udcff/\xc3\xa9" in done.stdout
    assert (tmp_path / "llama.log").read_bytes() == done.stdout
