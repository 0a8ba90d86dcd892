"""The soak: hours of nights a minute apart, with faults of all kinds, and a report on what became of every promise."""
