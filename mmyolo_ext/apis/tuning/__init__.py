"""Search for better values of config keys by many short trainings: what ``tools/tune.py`` does."""
