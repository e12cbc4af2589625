"""A port for a server that a test starts."""

import os
import socket

FIRST, COUNT = 12_000, 16_000  # below the ports that the system gives to connections (32768 and up)


def free_port() -> int:
    """A port on which nothing listens, and that nobody else is given before the server is up.

    A port that the system chooses may be given to any connection once it is closed here. These are not, and processes
    of tests that run side by side begin to look at places of their own.
    """
    for offset in range(COUNT):
        port = FIRST + (os.getpid() * 16 + offset) % COUNT
        with socket.socket() as server:
            try:
                server.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("no free port")
