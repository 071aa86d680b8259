"""A trained detector as a graph for other runtimes, proof that it gives the same boxes, and such a runtime."""
