"""`mattoni train`: hands its arguments on to what trains."""

import typer

app = typer.Typer(help="Train a brick.", no_args_is_help=True)

_FORWARD = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@app.command("modality", context_settings=_FORWARD, add_help_option=False)
def train_modality(context: typer.Context) -> None:
    """Train an image brick from configs; --dry-run tells first what it takes (--help lists the options)."""
    from modality_bricks.training.train import main

    main(context.args)


@app.command("watch", context_settings=_FORWARD, add_help_option=False)
def train_watch(context: typer.Context) -> None:
    """Show training runs on a page of this machine, running or not (--help lists its options)."""
    from brick_training.watch import main

    main(context.args)


@app.command("task", context_settings=_FORWARD, add_help_option=False)
def train_task(context: typer.Context) -> None:
    """Train a skill from a recipe: `python -m task_bricks.train` (--help lists its options)."""
    from task_bricks.training.train import main

    raise typer.Exit(main(context.args))
