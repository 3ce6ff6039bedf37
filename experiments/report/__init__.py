"""The page of an experiment: its first lines, its tables, its HTML."""
