"""What goes wrong with GPUs: there is none, or its memory is too small."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.bench.prompts import words
from tests.bench.sides import Shape

from . import weights
from .answers import compare, places, read_reference
from .report import Report
from .session import Session, complete, readyz

NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}
_ENDS_WITHIN = 100.0  # seconds
_CAUSES = ("out of memory", "failed to allocate", "unable to allocate", "insufficient memory")


def fallback(session: Session, report: Report) -> None:
    """The library under test on a machine that shows it no GPU: it computes on the CPU, and says so."""
    path = session.random_model(session.sizes.small)
    with session.ours(session.shape(path, 1, 1024), env=NO_GPU) as side:
        status = side.status()
        told = status["accelerator"]
        report.figure("accelerator", told)
        report.check("no layer is on a GPU", told["layers_offloaded"] == 0 < told["layers_total"], told)
        report.check("/status names the CPU", told["device"] == "CPU", told["device"])
        report.check("ready without --require-offload", readyz(side)[0] == 200, readyz(side))
        (expected, *_), _ = read_reference(session, "small")
        answer = complete(side, words("say 0", 24), len(expected), n_probs=10, cache_prompt=False)
        found = compare([places(answer)], [expected])
        report.check("it answers what the CPU answers", found.within, found.as_json())
    with session.ours(session.shape(path, 1, 1024), "--require-offload", env=NO_GPU) as side:
        code, text = readyz(side)
        report.check("--require-offload: unready, and why", code == 503 and "GPU" in text, [code, text])
        status = side.status()
        report.check("/status says so as well", not status["ready"] and "GPU" in status["reason"], status["reason"])
    missing = _fails(session, session.shape(session.work / "missing.gguf", 1, 512), env=NO_GPU)
    names_it = "missing.gguf" in missing["message"] and "CUDA" not in missing["message"]
    report.check("without a GPU, another fault is still named as what it is", names_it, missing)


def out_of_memory(session: Session, report: Report) -> None:
    """A context and a model that are too large for the card (without one: for this machine) end with a reason."""
    small = session.sizes.small
    memory = session.card.memory_mib << 20 if session.card else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    tokens = int(1.5 * memory / small.kv_bytes) // 256 * 256
    ended = _fails(session, session.shape(session.random_model(small), 1, tokens))
    report.figure("context", ended)
    _check(report, f"a context of {tokens} tokens", ended, str(tokens))
    hollow = weights.hollow(session.work / "models", session.vocabulary, int(1.25 * memory))
    ended = _fails(session, session.shape(hollow, 1, 512), "--no-mmap")  # mapped, the hole would be read
    hollow.unlink()
    report.figure("model", ended)
    _check(report, "a model of 1.25 times the memory", ended, hollow.name)


def _check(report: Report, what: str, ended: dict[str, Any], named: str) -> None:
    message = ended["message"]
    report.check(f"{what}: exit code 1", ended["code"] == 1, ended["code"])
    report.check(f"{what}: reason ModelLoadFailed", ended["reason"] == "ModelLoadFailed", ended["reason"])
    clear = any(cause in message for cause in _CAUSES) and named in message
    report.check(f"{what}: the message names it and the cause", clear, message)


def _fails(session: Session, shape: Shape, *options: str, env: dict[str, str] | None = None) -> dict[str, Any]:
    """Start a server that cannot load; its exit code and what it left for Kubernetes to read."""
    log: Path = session.work / "termination-log"
    log.unlink(missing_ok=True)
    command = [sys.executable, "-m", "llamaserver", *shape.arguments(), *options, "--port", "0", "--log-disable"]
    done = subprocess.run(
        [*command, "--termination-log", str(log)],
        env={**os.environ, "LLAMA_CPP_LIB_PATH": str(session.libraries), **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=_ENDS_WITHIN,
    )
    lines = log.read_text().splitlines() if log.exists() else []
    said = json.loads(lines[0]) if lines else {}
    told = {"reason": said.get("reason", ""), "message": said.get("message", "")}
    return {"code": done.returncode, **told, "end_of_log": "" if told["message"] else done.stdout[-1500:]}
