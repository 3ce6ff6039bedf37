"""The application: configs, run folders, reports and the command line.

It imports hypergrad, never the reverse: `python -m experiments --help`.
"""
