"""A config file, from its text to the cells it asks for, each built into values."""
