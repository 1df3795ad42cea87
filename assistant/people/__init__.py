"""Those who signed in: who they are, how much they use, what is theirs to take away or to have deleted."""
