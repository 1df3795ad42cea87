"""`python -m assistant.measure_charts`. A door: everything is in `assistant.evaluation.measure_charts`."""

from assistant.evaluation.measure_charts import main
from mattoni.errors import run_command

if __name__ == "__main__":
    run_command(main)
