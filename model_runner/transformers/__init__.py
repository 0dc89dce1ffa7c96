"""The engine in this process: any causal language model that transformers can load."""
