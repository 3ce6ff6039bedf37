"""Games in pure JAX, and how to learn to play them."""
