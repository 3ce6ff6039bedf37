"""How fast and how small: works to measure, one command each (see `cli`)."""
