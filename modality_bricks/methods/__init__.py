"""The methods of modality bricks, each a module with `METHODS`."""
