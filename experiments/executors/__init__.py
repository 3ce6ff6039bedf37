"""Where jobs are done: in this process, in others, or on Ray."""
