"""Published experiments, one file each; importing this package registers them."""

from experiments.papers import maclaurin_toy as maclaurin_toy
