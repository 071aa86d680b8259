"""The command-line tools, one per module; ``tools/*.py`` call their ``main``."""
