"""Floating-point operations of a program, counted before it runs.

XLA's own count takes the body of a loop once, whatever its length; here a scan counts
length times.
"""

import math
from typing import Any

import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.interpreters import partial_eval

# Primitives on floats that move numbers and compute none.
_MOVES = frozenset(
    {"broadcast_in_dim", "concatenate", "convert_element_type", "copy", "copy_p"}
    | {"dynamic_slice", "dynamic_update_slice", "expand_dims", "gather", "iota"}
    | {"optimization_barrier", "pad", "reduce_precision", "reshape", "rev", "scatter"}
    | {"select_n", "slice", "split", "squeeze", "stop_gradient", "transpose"}
)


def count_flops(program: ClosedJaxpr) -> int:
    """Flops of a traced program without what it computes in vain.

    A product of matrices or a convolution counts 2 for each multiplication, other
    arithmetic on floats 1 for each number that it makes (a reduction: that it reads),
    and so do calls of linear algebra, too few. Of a branch the longest way counts, and
    the body of a `while` whose length nobody knows counts once.

    Args:
      program: `jax.make_jaxpr(fn)(*args)` or `jax.jit(fn).trace(*args).jaxpr`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from hypergrad.flops import count_flops
      >>> power = lambda x: jax.lax.scan(lambda y, _: (y @ x, None), x, length=10)[0]
      >>> count_flops(jax.make_jaxpr(power)(jnp.ones((5, 5))))  # 10 · 2 · 5³
      2500
    """
    used = [True] * len(program.jaxpr.outvars)
    needed, _ = partial_eval.dce_jaxpr(program.jaxpr, used)
    return _count(needed)


def has_open_loop(program: ClosedJaxpr) -> bool:
    """Whether a `while` is in it, so that `count_flops` is a lower bound."""
    used = [True] * len(program.jaxpr.outvars)
    return _is_open(partial_eval.dce_jaxpr(program.jaxpr, used)[0])


def _is_open(jaxpr: Jaxpr) -> bool:
    return any(
        equation.primitive.name == "while"
        or any(
            _is_open(body) for v in equation.params.values() for body in _programs(v)
        )
        for equation in jaxpr.eqns
    )


def _count(jaxpr: Jaxpr) -> int:
    return sum(_count_equation(equation) for equation in jaxpr.eqns)


def _count_equation(equation: Any) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "cond":
        return max(_count(branch.jaxpr) for branch in params["branches"])
    if bodies := [body for value in params.values() for body in _programs(value)]:
        times = params["length"] if name == "scan" else 1
        return times * sum(map(_count, bodies))

    if name in _MOVES or not equation.invars or not equation.outvars:
        return 0
    left, out = equation.invars[0].aval, equation.outvars[0].aval
    if not jnp.issubdtype(getattr(out, "dtype", int), jnp.inexact):
        return 0
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        return 2 * out.size * math.prod(left.shape[i] for i in contracted)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval
        features = kernel.shape[params["dimension_numbers"].rhs_spec[0]]
        return 2 * out.size * kernel.size // features
    reads = name.startswith(("reduce_", "arg")) or name == "scatter-add"
    return left.size if reads else out.size


def _programs(value: Any) -> list[Jaxpr]:
    """The programs in a parameter of an equation."""
    if isinstance(value, ClosedJaxpr):
        return [value.jaxpr]
    if isinstance(value, Jaxpr):
        return [value]
    if isinstance(value, tuple | list):
        return [program for item in value for program in _programs(item)]
    return []
