"""Export trained detectors for other runtimes, check the files against PyTorch, and run them without PyTorch."""
