"""The page's server: on this machine only unless told otherwise, and on the next port when the wanted one is taken."""

import inspect
import os
import socket
import subprocess
import sys

import pytest

from mattoni.errors import MattoniError
from ui.launch import DEFAULT_PORT, free_port, launch, leave_a_core, options


def test_a_taken_port_gives_the_next_free_one():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert port < free_port("127.0.0.1", port) <= port + 50


def test_no_free_port_and_no_such_address_are_one_sentence_each():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(MattoniError, match="are all taken: choose another --port"):
            free_port("127.0.0.1", taken.getsockname()[1], tries=1)
    with pytest.raises(MattoniError, match="Cannot listen on 203.0.113.7, port 8501 .*: choose another"):
        free_port("203.0.113.7", 8501)


def test_the_server_listens_on_this_machine_and_tells_nobody():
    parameters = inspect.signature(launch).parameters
    assert (parameters["address"].default, parameters["port"].default) == ("127.0.0.1", DEFAULT_PORT)
    settings = options("127.0.0.1", 8501)
    assert settings["server.address"] == "127.0.0.1"
    assert settings["browser.gatherUsageStats"] == "false"
    assert settings["server.showEmailPrompt"] == "false"
    assert settings["server.maxUploadSize"] == "200"


def test_every_setting_is_one_that_streamlit_knows():
    from streamlit import config

    for name in options("127.0.0.1", 8501):
        config.get_option(name)


def test_a_core_is_left_to_the_page_unless_threads_are_set_by_hand(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    leave_a_core()
    assert os.environ["OMP_NUM_THREADS"] == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    leave_a_core()
    assert os.environ["OMP_NUM_THREADS"] == "4"


def test_the_page_brings_none_of_the_hosts_libraries(home):
    # The backend's thread imports them while the page is drawn: a second thread that does so finds them half made.
    code = (
        "import sys, ui.chat, ui.explain, ui.facts, ui.inside, ui.messages, ui.sidebar, ui.skills, ui.teach, ui.views;"
        "import ast; tree = ast.parse(open('ui/app.py').read());"
        "[__import__(n.module) for n in tree.body if isinstance(n, ast.ImportFrom) and n.module];"
        "print([name for name in ('transformers', 'peft') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
