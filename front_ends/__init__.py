"""Where the front ends come together: the command that the package installs. Decides nothing."""
