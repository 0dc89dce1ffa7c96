"""Limits per key, held in Redis so that all gateway processes share them."""
