"""The project's own tasks, one file each; importing this package registers them."""

from experiments.tasks import digits as digits
