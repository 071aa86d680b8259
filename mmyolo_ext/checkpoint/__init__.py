"""Read, check and write checkpoint files."""
