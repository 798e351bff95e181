"""The training step that every device runs, and its parts."""
