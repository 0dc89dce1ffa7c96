"""Wires. HTTP, keys, limits, metrics and the command line."""
