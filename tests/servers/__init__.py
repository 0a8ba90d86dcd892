"""Real servers on loopback for tests, and a proxy that makes them fail."""
