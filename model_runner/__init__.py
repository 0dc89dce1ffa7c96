"""Generates. The engine in this process, and clients of engines elsewhere."""
