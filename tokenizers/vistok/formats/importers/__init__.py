"""Importers of published families of tokenizers: for each its table of names and the construction of its parts."""
