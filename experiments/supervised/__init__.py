"""What the tasks on labelled rows share."""
