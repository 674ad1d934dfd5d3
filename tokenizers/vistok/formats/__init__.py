"""File formats of tokenizers: our folder, importers and exporters."""
