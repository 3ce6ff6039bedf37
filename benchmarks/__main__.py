"""`python -m benchmarks WORK`: see `benchmarks.cli`."""

from benchmarks import one_core

if __name__ == "__main__":
    one_core.use()  # before anything imports JAX
    from benchmarks.cli import main

    main()
