"""A PostgreSQL server of the tests' own: Debian's programs in a temporary folder, as a user without rights, on a free port."""

import contextlib
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest

USER, PASSWORD = "mattoni", "p:a/s@s w0rd"


class Server:
    """A running server; `restart` kills it as a power cut would and starts it again."""

    def __init__(self, programs: Path, folder: Path, port: int, owner: str | None) -> None:
        self.port, self._programs, self._folder, self._owner = port, programs, folder, owner

    def url(self, database: str, user: str = USER, password: str = PASSWORD, port: int | None = None) -> str:
        return f"postgresql://{user}:{quote(password, safe='')}@127.0.0.1:{port or self.port}/{database}"

    def new_database(self, options: str = "") -> str:
        """Make an empty database and return its address."""
        name = f"d{secrets.token_hex(6)}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} {options}")
        return self.url(name)

    def make(self) -> None:
        secret = self._folder / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        self._run(
            "initdb", "-U", USER, "-A", "scram-sha-256", f"--pwfile={secret}", "-E", "UTF8", "--locale=C.UTF-8", "-N"
        )
        secret.unlink()

    def start(self) -> None:
        # Only processes are killed here, not the machine: what the system was given to write is written.
        options = f"-p {self.port} -c fsync=off -c listen_addresses=127.0.0.1 -c unix_socket_directories={self._folder}"
        self._run("pg_ctl", "start", "-w", "-l", str(self._folder / "log"), "-o", options)

    def stop(self) -> None:
        self._run("pg_ctl", "stop", "-w", "-m", "immediate")

    def restart(self) -> None:
        self.stop()
        self.start()

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._programs / program), "-D", str(self._folder / "data"), *arguments]
        group = None if self._owner is None else pwd.getpwnam(self._owner).pw_gid
        with tempfile.TemporaryFile() as said:  # no pipe: the server would hold its other end for as long as it runs
            ended = subprocess.run(
                command, cwd=self._folder, stdout=said, stderr=subprocess.STDOUT, user=self._owner, group=group,
                extra_groups=None if group is None else [],
            )  # fmt: skip
            said.seek(0)
            assert ended.returncode == 0, said.read().decode()


def programs() -> Path | None:
    """The folder of initdb and pg_ctl: Debian keeps them by version, outside of the path."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if found:
        return max(found, key=lambda folder: int(folder.parent.name))
    named = shutil.which("initdb")
    return Path(named).parent if named else None


@contextlib.contextmanager
def running_server() -> Iterator[Server]:
    """A server with nothing in it; skips with the reason where there is no program."""
    folder_of_programs = programs()
    if folder_of_programs is None:
        pytest.skip("needs a PostgreSQL server: apt-get install postgresql")
    # Not below pytest's folder, which only root may enter; and the server refuses to be root.
    folder = Path(tempfile.mkdtemp(prefix="mattoni-postgres-"))
    owner = None
    if os.getuid() == 0:
        owner = next(name for name in ("postgres", "nobody") if name in {entry.pw_name for entry in pwd.getpwall()})
        shutil.chown(folder, owner)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = Server(folder_of_programs, folder, port, owner)
    try:
        server.make()
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
