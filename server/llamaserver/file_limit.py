"""The number of files and connections that the process may have open (RLIMIT_NOFILE)."""

import contextlib
import resource

_MOST = 4096  # connections, unless the command line says otherwise
_OTHERS = 256  # files for the model, the KV store, the management port and the process itself


def raise_file_limit() -> None:
    """Raise the limit as far as the process may. Containers often start with 1,024, which a few clients use up."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # some systems name a hard limit that they do not grant
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def default_connections() -> int:
    """Connections of clients that leave enough files for everything else."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return _MOST
    return min(_MOST, max(files - _OTHERS, files // 2))
