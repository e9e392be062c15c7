"""The command `llamaserver-operator`. Exit codes: 0 after a stop, 1 after a failure, 2 for a wrong option."""

import asyncio
import logging
import os
import sys

from . import logs
from .config import parse
from .errors import ConfigError


def main() -> None:
    """Run the operator. This function does not return."""
    try:
        config = parse(sys.argv[1:], os.environ)
    except ConfigError as error:
        print(f"llamaserver-operator: {error}\nTry llamaserver-operator --help.", file=sys.stderr)
        sys.exit(2)
    logs.configure(config)
    from .reconcile import Reconciler
    from .runtime import Operator

    try:
        code = asyncio.run(Operator(config, Reconciler).run())
    except ConfigError as error:
        logging.getLogger(__name__).error("%s", error)  # noqa: TRY400 - a traceback would add nothing
        code = 2
    logging.shutdown()
    os._exit(code)  # exit() would wait for the thread that watches


if __name__ == "__main__":
    main()
