"""Decides. YAML -> Policy -> Verdict, and the screen that every text passes."""
