"""The command `llamaserver`. Exit codes: 0 stopped, 1 load or engine failed, 2 wrong options, 130 Ctrl-C.

`llamaserver fetch` and `llamaserver selftest` are separate commands (models/fetch.py, selftest/).
"""

import logging
import os
import signal
import sys
from typing import NoReturn

from . import termination
from .allocator import give_back_large_blocks
from .errors import ConfigError, Reason


def prepare_environment() -> None:
    """Set what libraries read when they are loaded, and how memory and the interpreter lock are given back.

    Without GGML_NO_BACKTRACE, a failing assertion would start a debugger on the process.
    """
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")
    give_back_large_blocks()
    sys.setswitchinterval(0.0005)  # the engine thread must not wait long for the GIL after a decode


def end_at_once(number: int, _: object) -> NoReturn:
    """Handle a signal before the server has started. Process 1 of a container ignores signals without a handler."""
    os._exit(128 + number if sys.argv[1:2] in (["fetch"], ["selftest"]) else 0)


def main() -> None:
    """Run the server. Does not return."""
    signal.signal(signal.SIGTERM, end_at_once)
    if sys.argv[1:2] == ["fetch"]:
        from .models import fetch

        fetch.main(sys.argv[2:])
    if sys.argv[1:2] == ["selftest"]:
        from .selftest import command

        command.main(sys.argv[2:])
    if "--list-devices" in sys.argv:
        prepare_environment()
        from .llama.placement import listed

        print(listed())
        sys.exit(0)
    from .options import parse

    try:
        config = parse(sys.argv[1:], os.environ)
    except ConfigError as error:
        termination.write(termination.path_in(sys.argv, os.environ), Reason.BAD_ARGUMENTS, str(error))
        print(f"llamaserver: {error}\nTry llamaserver --help.", file=sys.stderr)
        sys.exit(2)
    prepare_environment()
    import uvloop

    from . import logs
    from .lifecycle import Server

    logs.configure(config)
    crash_log = termination.CrashLog(config.termination_log)
    crash_log.catch_crashes()

    async def run() -> None:
        try:
            code = await Server(config, os.environ, crash_log).run()
        except ConfigError as error:
            termination.write(config.termination_log, Reason.BAD_ARGUMENTS, str(error))
            print(f"llamaserver: {error}", file=sys.stderr, flush=True)
            code = 2
        except Exception:
            crash_log.clear()
            raise
        logging.shutdown()
        os._exit(
            code
        )  # an exit of the interpreter would wait for worker threads, which may be in a long call of the library

    uvloop.run(run())  # streams cost a fifth less than with asyncio's own loop (docs/explanation/performance.md)


if __name__ == "__main__":
    main()
