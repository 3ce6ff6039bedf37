"""One of two processes that share a program: as agree, with a port and a number."""

import sys

import jax

if __name__ == "__main__":
    out, parts, port, process = sys.argv[1:]
    jax.distributed.initialize(f"localhost:{port}", 2, int(process))
    assert jax.process_count() == 2
    assert jax.device_count() == 2 * jax.local_device_count()

    # A space or a problem is made of arrays, and so of devices: not before this.
    from tests.sharded import agree

    agree.main(out, parts)
