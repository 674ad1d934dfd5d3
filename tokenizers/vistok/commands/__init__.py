"""The commands of ``python -m vistok``: one module for each. Nothing imports a command."""
