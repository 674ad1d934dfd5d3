"""Exporters of tokenizers to the layouts of other libraries."""
