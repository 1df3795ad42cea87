"""`python -m modality_bricks.charts`. A door: everything is in `modality_bricks.training.charts.generate`."""

from mattoni.errors import run_command
from modality_bricks.training.charts.generate import main

if __name__ == "__main__":
    run_command(main)
