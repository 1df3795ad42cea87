"""Which process is writing an answer, and whether it still runs. Knows nothing of answers."""

import os
import socket

import psutil


def this_process() -> str:
    """Names this process also after its number has been given to another."""
    return f"{os.getpid()} {psutil.Process().create_time()}"


def this_machine() -> str:
    """Names where process numbers mean the same: the machine and, in a container, the container."""
    try:
        space = os.stat("/proc/self/ns/pid").st_ino
    except OSError:  # no Linux: there are no containers within it
        space = 0
    return f"{socket.gethostname()} {space}"


def is_alive(process: str) -> bool:
    """Whether the process of that name (`this_process`) still runs."""
    number, _, begun = process.partition(" ")
    try:
        return str(psutil.Process(int(number)).create_time()) == begun
    except (psutil.Error, ValueError):
        return False
