"""`python -m task_bricks.train`. A door: everything is in `task_bricks.training.train`."""

from mattoni.errors import run_command
from task_bricks.training.train import main

if __name__ == "__main__":
    run_command(main)
