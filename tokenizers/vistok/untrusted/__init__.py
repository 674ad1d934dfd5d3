"""Files that anybody may have written, read within bounds: JSON, safetensors, pickles."""
