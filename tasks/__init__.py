"""The work: stage programs (verbs) and the rooms that they stand on (nouns)."""
