"""`python -m assistant.measure_eyes`. A door: everything is in `assistant.evaluation.measure_eyes`."""

from assistant.evaluation.measure_eyes import main
from mattoni.errors import run_command

if __name__ == "__main__":
    run_command(main)
