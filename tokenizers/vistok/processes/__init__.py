"""Processes: locks between them, signals to them, progress they show."""
