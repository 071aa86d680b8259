"""Run commands on a terminal of their own, as a user sees them."""

import os
import pty
import re
import subprocess


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
