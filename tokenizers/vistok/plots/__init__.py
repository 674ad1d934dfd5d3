"""Pictures: images in rows, maps of tokens, and figures."""
