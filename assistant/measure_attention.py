"""`python -m assistant.measure_attention`. A door: everything is in `assistant.evaluation.measure_attention`."""

from assistant.evaluation.measure_attention import main
from mattoni.errors import run_command

if __name__ == "__main__":
    run_command(main)
