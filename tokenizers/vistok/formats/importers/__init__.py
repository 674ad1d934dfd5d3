"""Published families of tokenizers: for each its table of names, and how its parts are built."""
