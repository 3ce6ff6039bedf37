"""Files that are whole or absent, and the run folders made of them."""
