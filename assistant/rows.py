"""`python -m assistant.rows`. A door: everything is in `assistant.evaluation.rows`."""

from assistant.evaluation.rows import main
from mattoni.errors import run_command

if __name__ == "__main__":
    run_command(main)
