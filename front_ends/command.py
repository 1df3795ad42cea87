"""The command `mattoni` with every front end in it: what the package installs."""

import server.command
import ui.command
from assistant.cli import app, main

__all__ = ["app", "main", "server", "ui"]


if __name__ == "__main__":
    main()
