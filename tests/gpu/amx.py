"""AMX, the matrix unit of Intel's server CPUs: whether the CPU library computes rightly with it, and how fast.

GCC 12 compiled llama.cpp's AMX code so that its first matrix product ended the process (tools/patches.py).
Hosts of large GPUs often have such a CPU, so the kit looks at it as well. The same library without its AMX
module is what it is compared with.
"""

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from tests.bench.load import call, together
from tests.bench.prompts import words
from tests.bench.sides import Shape

from .answers import TOP, Place, compare, places
from .report import NotRun, Report
from .session import Session, complete
from .weights import Dimensions, Kind

_FLAG = "amx_int8"
_MODULES = "libggml-cpu-*.so"
_AMX_MODULE = "libggml-cpu-sapphirerapids.so"
_KINDS: tuple[Kind, ...] = ("Q4_0", "Q4_1", "Q8_0")
_PROMPT, _LENGTH = 200, 12  # tokens
_LONG = 1500  # tokens of the prompts that are timed
_ON = "AMX_INT8 = 1"
_TYPES = "Q4_0,Q8_0,Q4_K"  # tested with every module of the CPU


def _require_amx() -> None:
    if _FLAG not in Path("/proc/cpuinfo").read_text():
        raise NotRun("this CPU has no AMX")


def _model(session: Session, kind: Kind) -> Path:
    return session.random_model(Dimensions(f"random-amx-{kind.lower()}", 4, 512, 8, 4, 1536, kind))


def _shape(session: Session, path: Path) -> Shape:
    return Shape(path, 1, 2048, session.threads)


def _without(session: Session) -> Path:
    """The CPU library without the module."""
    folder = session.work / "libraries-without-amx"
    if not folder.exists():
        shutil.copytree(session.cpu_libraries, folder, ignore=shutil.ignore_patterns(_AMX_MODULE))
    return folder


def _ask(session: Session, path: Path, libraries: Path) -> tuple[str, list[list[Place]]]:
    """What the library says of itself, and its answers; the first prompt is short, the second long."""
    with session.ours(_shape(session, path), libraries=libraries) as side:
        found = []
        for prompt in (words("short", 5), words("amx", _PROMPT)):
            answer = complete(side, prompt, _LENGTH, n_probs=TOP, cache_prompt=False)
            found.append(places(answer))
        return str(side.status()["system_info"]), found


def amx(session: Session, report: Report) -> None:
    """Every quantization that has AMX kernels here: answers as without AMX, within the tolerance of `exact`."""
    _require_amx()
    for kind in _KINDS:
        path = _model(session, kind)
        info, found = _ask(session, path, session.cpu_libraries)
        report.check(f"the library computes with AMX ({kind})", _ON in info, info)
        other_info, expected = _ask(session, path, _without(session))
        report.check(f"and the other one without ({kind})", _ON not in other_info, other_info)
        compared = compare(found, expected)
        report.figure(kind, compared.as_json())
        report.check(f"both answer the same within tolerance ({kind})", compared.within, compared.as_json())


def fault(session: Session, report: Report) -> None:
    """The counter-proof: the module as GCC 12 compiles it unpatched must end the process."""
    _require_amx()
    module = session.fault
    if module is None:
        raise NotRun("the pack has no unpatched module (tests/gpu/pack --with-amx-fault)")
    folder = session.work / "libraries-amx-fault"
    shutil.copytree(session.cpu_libraries, folder, dirs_exist_ok=True)
    shutil.copy2(module, folder / _AMX_MODULE)
    code = _exit_code(session, _model(session, "Q8_0"), folder)
    died = {-signal.SIGSEGV, -signal.SIGILL}
    report.check("the unpatched module ends the process by SIGSEGV or SIGILL", code in died, code)


def _exit_code(session: Session, path: Path, libraries: Path) -> int:
    """Of a server that loads and is asked once; 0 when it lives."""
    try:
        with session.ours(_shape(session, path), libraries=libraries) as side:
            assert side.server.process
            try:
                complete(side, words("amx", _PROMPT), _LENGTH)
            except (OSError, RuntimeError):
                return side.server.process.wait(20)
            return 0
    except AssertionError as error:  # it ended while it loaded
        found = re.search(r"exited with (-?\d+)", str(error))
        return int(found[1]) if found else 0


def amx_speed(session: Session, report: Report) -> None:
    """Prompt and stream on the CPU, with AMX and without; after the build, when the machine is quiet."""
    _require_amx()
    path = session.random_model(session.sizes.small)
    for name, libraries in (("with", session.cpu_libraries), ("without", _without(session))):
        with session.ours(_shape(session, path), libraries=libraries) as side:
            together([call(side.port, words(f"warm up {name}", 64), 8)])
            (answer,) = together([call(side.port, words(f"long {name}", _LONG), 48)])
        figure = {
            "prompt_tokens_per_second": round(_LONG / answer.first, 1),
            "tokens_per_second": round(answer.rate, 1),
        }
        report.figure(f"{path.stem} {name} AMX", figure)


def selftest(session: Session, report: Report) -> None:
    """The server's own test of every CPU module that this machine can run, where this version has one."""
    if importlib.util.find_spec("llamaserver.selftest") is None:
        raise NotRun("this version has no llamaserver selftest")
    command = [sys.executable, "-m", "llamaserver", "selftest", "-m", str(_model(session, "Q8_0")), "--json"]
    command += ["--types", _TYPES, "--threads", str(session.threads)]
    env = {**os.environ, "LLAMA_CPP_LIB_PATH": str(session.cpu_libraries)}
    done = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=False)
    told = json.loads(done.stdout) if done.stdout else {}
    for result in told.get("results", []):
        difference = result["difference"] or {}
        name = f"{result['module']} {result['type']}"
        report.figure(name, [result["verdict"], result["why"], difference.get("relative"), result["weights_in"]])
    report.figure("module in use", told.get("serving"))
    report.check("every module is right", done.returncode == 0, done.returncode)
