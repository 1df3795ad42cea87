"""Which process is writing an answer, and whether it still runs. Knows nothing of answers."""

import os

import psutil


def this_process() -> str:
    """Names this process also after its number has been given to another."""
    return f"{os.getpid()} {psutil.Process().create_time()}"


def is_alive(process: str) -> bool:
    """Whether the process of that name (`this_process`) still runs."""
    number, _, begun = process.partition(" ")
    try:
        return str(psutil.Process(int(number)).create_time()) == begun
    except (psutil.Error, ValueError):
        return False
