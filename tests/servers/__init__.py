"""Real servers on loopback for tests, and a proxy that simulates their failures."""
