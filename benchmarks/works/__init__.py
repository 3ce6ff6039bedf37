"""What is measured, one file a work, each with its `make(steps, smallest)`."""
