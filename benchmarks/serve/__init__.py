"""How fast an exported model answers: each format alone, and the server by HTTP; `python -m benchmarks.serve`."""
