"""The command `llamaserver fetch`: an init container that brings models into a folder before the server starts.

Exit codes: 0 all files are there, 1 failed, 2 usage, 130 and 143 for signals. The termination log has the
reason of a failure. Partial downloads stay, and the next start continues them.

At most starts of a pod, all files are there. So this module imports little. The downloads are in
models/fetch_run.py.
"""

import argparse
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from .. import logs, termination
from ..config import Config
from ..errors import ConfigError, DownloadError
from ..option_readers import integer
from . import cache, origin
from .spec import keys, wanted

_log = logging.getLogger(__name__)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise DownloadError(message, "BadSpec")


def parse(argv: Sequence[str], environ: Mapping[str, str]) -> argparse.Namespace:
    """Parse the command line after `fetch`. Raises DownloadError BadSpec with the mistake."""
    parser = _Parser("llamaserver fetch", allow_abbrev=False, description="Download models into a shared folder. "
                     "With LLAMA_ARG_PRIVATE_SOURCES=refuse, no source may be on this machine, on its link, or at a "
                     "metadata service.")  # fmt: skip
    models, port = environ.get("LLAMA_ARG_MODELS_DIR", "models"), environ.get("LLAMA_ARG_MANAGEMENT_PORT", "0")
    parser.add_argument("--models-dir", type=Path, default=models, metavar="DIR", help="folder for downloads")
    parser.add_argument("--owner", default="", metavar="NAME", help="owner of these files, such as NAMESPACE/NAME")
    parser.add_argument(
        "--file", action="append", required=True, metavar="JSON",
        help='{"path": "KEY/FILE.gguf", "huggingFace": {"repo", "revision", "file"} | "http": {"url"}, "sha256": ""}; '
        "may be repeated",
    )  # fmt: skip
    parser.add_argument("--management-host", default="0.0.0.0", metavar="HOST", help="address of that port")  # noqa: S104
    parser.add_argument("--management-port", default=port, metavar="N", help="port for /livez /readyz /metrics /status")
    parser.add_argument("--log-format", choices=("json", "text"), default="json", help="form of the log lines")
    parser.add_argument(termination.FLAG, default=environ.get(termination.VARIABLE, termination.DEFAULT),
                        metavar="FNAME", help="file for the reason of a failure, as JSON")  # fmt: skip
    args = parser.parse_args(list(argv))
    try:
        args.management_port = integer(0, 65535)(args.management_port)
    except ConfigError as error:
        raise DownloadError(f"--management-port: {error}", "BadSpec") from None
    return args


def is_there(args: argparse.Namespace, environ: Mapping[str, str]) -> bool:
    """Record the use of the files. True if the records beside the files say that all are there and good."""
    try:
        files = [file for text in args.file for file in wanted(text, environ)]
        if args.owner:
            claim = cache.Claim(args.models_dir, args.owner, keys(files))
            claim.name()  # first, so no other server removes the files as unused
            claim.use()
        return all(origin.vouches(args.models_dir / file.path, file.source.sha256) for file in files)
    except (DownloadError, OSError):
        return False  # models/fetch_run.py gets the same error and reports it


def main(argv: Sequence[str]) -> NoReturn:
    """Run the command. Does not return."""
    try:
        args = parse(argv, os.environ)
    except DownloadError as error:
        termination.write(termination.path_in(argv, os.environ), error.reason, str(error))
        print(f"llamaserver fetch: {error}\nTry llamaserver fetch --help.", file=sys.stderr)
        sys.exit(2)
    logs.configure(Config(log_disable=True, log_format=args.log_format))
    if is_there(args, os.environ):
        _log.info("all files are there already")
        sys.exit(0)
    from . import fetch_run

    fetch_run.main(args)
