"""The methods of emergent bricks, each a module with `METHODS`."""
