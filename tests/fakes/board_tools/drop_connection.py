"""End the ssh server's process of this very session, as a cable that is pulled."""

import time

import psutil


def drop() -> None:
    for parent in psutil.Process().parents():
        if parent.name().startswith("sshd"):
            parent.kill()
            break
    time.sleep(600)


if __name__ == "__main__":
    drop()
