"""Data of the tasks: publishers' files as numpy arrays, and small embedded stand-ins.

Nothing here knows a model, JAX or the library, and nothing is ever downloaded: files
are found under the folder that the environment variable HYPERGRAD_DATA names.
"""
