"""Published results beside ours: run, judge, draw, one page of all."""
