"""Bounded readers of files from unknown sources: JSON, safetensors, pickles, arrays."""
