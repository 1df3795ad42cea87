"""`python -m modality_bricks.tutorial_pictures`. A door: everything is in `modality_bricks.training.tutorial_pictures`."""

from mattoni.errors import run_command
from modality_bricks.training.tutorial_pictures import main

if __name__ == "__main__":
    run_command(main)
