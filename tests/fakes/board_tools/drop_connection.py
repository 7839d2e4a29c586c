"""End the ssh server's process of this very session, as a cable that is pulled; or freeze it."""

import os
import sys
import time
from pathlib import Path

import psutil


def drop(*, freeze: bool = False) -> None:
    session = next(parent for parent in psutil.Process().parents() if parent.name().startswith("sshd"))
    if freeze:
        Path(os.environ["FAKE_BOARD"], "pid").write_text(str(session.pid))
        session.suspend()
    else:
        session.kill()
    time.sleep(600)


if __name__ == "__main__":
    drop(freeze="freeze" in sys.argv)
