"""The methods of knowledge bricks, each a module with `METHODS`."""
