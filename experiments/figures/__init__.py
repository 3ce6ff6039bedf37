"""The figures of a page, each a function of plain results."""
