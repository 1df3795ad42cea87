"""`python -m modality_bricks.train`. A door: everything is in `modality_bricks.training.train`."""

from mattoni.errors import run_command
from modality_bricks.training.train import main

if __name__ == "__main__":
    run_command(main)
