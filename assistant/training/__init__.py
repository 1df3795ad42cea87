"""Makes what the router decides by. Nothing here runs for a user."""
