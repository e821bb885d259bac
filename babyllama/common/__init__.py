"""Errors, console, files, processes: what every room needs and what knows no language model. Imports no other room."""
