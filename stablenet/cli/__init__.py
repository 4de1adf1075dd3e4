"""The command line: one thin module per command, and the tables that it prints."""
