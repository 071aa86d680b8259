"""Run commands on a terminal of their own, as a user sees them."""

import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread

import pytest


@contextmanager
def standard_error_on_terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Give this process a terminal for standard error; the list holds what it has shown, as plain text, afterwards."""
    leader, follower = pty.openpty()
    seen, shown = [], []

    def read() -> None:
        with suppress(OSError):  # the other side has closed
            while part := os.read(leader, 65536):
                seen.append(part)

    reader = Thread(target=read)
    reader.start()
    with monkeypatch.context() as patch:
        patch.setenv('TERM', 'xterm')
        patch.setenv('COLUMNS', '120')
        with os.fdopen(follower, 'w') as terminal:
            patch.setattr(sys, 'stderr', terminal)
            yield shown
    reader.join()
    os.close(leader)
    shown.append(plain_text(b''.join(seen).decode()))


def on_terminal(*command: str, **environment: str) -> tuple[str, str]:
    """Run a command on a terminal of its own; return what it shows, with and without control sequences."""
    leader, follower = pty.openpty()
    environment = {**os.environ, 'TERM': 'xterm', 'COLUMNS': '120', **environment}
    process = subprocess.Popen(command, stdout=follower, stderr=follower, env=environment)
    os.close(follower)
    seen = b''
    while True:
        try:
            part = os.read(leader, 65536)
        except OSError:  # Linux: the other side has closed
            break
        if not part:
            break
        seen += part
    os.close(leader)
    assert process.wait() == 0, seen.decode()
    return seen.decode(), plain_text(seen.decode())


def plain_text(text: str) -> str:
    return re.sub(r'\x1b\[[0-9;?]*[A-Za-z]', '', text)
