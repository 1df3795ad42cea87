"""The methods of task bricks, each a module with `METHODS`."""
