"""The relay to the API server, as a program: `python -m dev.localcluster.door FD NAMESPACE HOST PORT`.

FD is an inherited listening socket, so the caller knows its port before this program starts.
"""

import socket
import sys
from pathlib import Path

from .forward import Relay

if __name__ == "__main__":
    number, namespace, host, port = sys.argv[1:]
    Relay(socket.socket(fileno=int(number)), (host, int(port)), Path(namespace)).wait()
