"""The same works in other libraries, for an environment of their own (`make peers`).

Nothing here imports hypergrad or JAX (jaxopt's program apart): data, initial weights
and batches are handed over in a file.
"""
