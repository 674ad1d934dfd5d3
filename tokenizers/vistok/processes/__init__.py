"""Operating-system processes: locks between them, signals to them, and their progress display."""
