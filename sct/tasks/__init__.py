"""The work of each command after its config is checked: one file for each command."""
