"""Derivatives in which 0 · ∞ = 0.

At v = 0 the chain rule of √v reads dv / (2 √v) = 0 · ∞, which floating point calls NaN.
Optimisers meet it whenever a gradient is exactly zero (one dead ReLU unit is enough),
and again in the branch that `jnp.where` did not select. In both cases the quantity that
moves is zero, and so is its effect: a slope that is not finite here counts as zero.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero
from jax.extend.core import Jaxpr, JaxprEqn, Literal

from hypergrad.typing import PyTree

# Elementwise operations whose slopes may not be finite where the rest is, and their
# slopes in each operand. A product is one of them: the slope of r · m in m is r, which
# is NaN in a branch not selected.
_SLOPES: dict[str, tuple[Callable[..., Array], ...]] = {
    "mul": (lambda x, y: y, lambda x, y: x),
    "div": (lambda x, y: 1 / y, lambda x, y: -x / y / y),
    "sqrt": (lambda x: 0.5 / jnp.sqrt(x),),
    "rsqrt": (lambda x: -0.5 / jnp.sqrt(x) / x,),
    "cbrt": (lambda x: jnp.cbrt(x) / (3 * x),),
    "log": (lambda x: 1 / x,),
    "log1p": (lambda x: 1 / (1 + x),),
    "pow": (lambda x, y: y * x ** (y - 1), lambda x, y: jnp.log(x) * x**y),
}


def guard(fn: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """The same function, whose derivative takes 0 · ∞ = 0.

    `fn` is traced, and each elementary operation of it (inside scans and conditionals
    too) that can have a non-finite slope is replaced by one of the same value whose
    slope is 0 there. Elsewhere the derivative is unchanged, in forward and reverse mode
    and at any order. Rules given by `jax.custom_jvp` and `jax.custom_vjp` are kept as
    they are, and so is the body of a `while_loop`. A slope that overflows counts as not
    finite: in float32, 1/√v below v ≈ 1e-25.

    Args:
        fn: from pytrees of arrays to a pytree of arrays; it may close over traced ones.

    >>> norm = lambda x: jnp.sqrt(jnp.sum(x**2))
    >>> print(jax.grad(norm)(jnp.zeros(2)), jax.grad(guard(norm))(jnp.zeros(2)))
    [nan nan] [0. 0.]
    """

    def guarded(*args: PyTree) -> PyTree:
        closed, shapes = jax.make_jaxpr(fn, return_shape=True)(*args)
        outs = _evaluate(closed.jaxpr, closed.consts, jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(shapes), outs)

    return guarded


def _evaluate(jaxpr: Jaxpr, consts: Sequence, args: Sequence) -> list:
    """The values of a jaxpr, equation by equation."""
    values = dict(zip(jaxpr.constvars, consts, strict=True))
    values.update(zip(jaxpr.invars, args, strict=True))

    def read(atom):
        return atom.val if isinstance(atom, Literal) else values[atom]

    for eqn in jaxpr.eqns:
        outs = _apply(eqn, [read(atom) for atom in eqn.invars])
        values.update(zip(eqn.outvars, outs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _apply(eqn: JaxprEqn, args: list) -> Sequence:
    """The values of one equation, guarded."""
    params = eqn.params
    match eqn.primitive.name:
        case "jit":
            inner = params["jaxpr"]
            return _evaluate(inner.jaxpr, inner.consts, args)
        case "cond":
            branches = [
                lambda *args, inner=inner: _evaluate(inner.jaxpr, inner.consts, args)
                for inner in params["branches"]
            ]
            return jax.lax.switch(args[0], branches, *args[1:])
        case "scan":
            return _scan(params, args)

    def bind(*args):
        return eqn.primitive.bind(*args, **eqn.primitive.get_bind_params(params))

    if slopes := _slopes(eqn, args):
        return [_tame(bind, slopes)(*args)]
    outs = bind(*args)
    return outs if eqn.primitive.multiple_results else [outs]


def _scan(params: dict, args: list) -> list:
    inner, num_carry = params["jaxpr"], params["num_carry"]
    num_consts = params["num_consts"]
    consts, rest = args[:num_consts], args[num_consts:]

    def body(carry, x):
        outs = _evaluate(inner.jaxpr, inner.consts, [*consts, *carry, *x])
        return outs[:num_carry], outs[num_carry:]

    carry, ys = jax.lax.scan(
        body,
        rest[:num_carry],
        rest[num_carry:],
        length=params["length"],
        reverse=params["reverse"],
        unroll=params["unroll"],
    )
    return [*carry, *ys]


def _slopes(eqn: JaxprEqn, args: list) -> tuple[Callable[..., Array], ...]:
    """The slopes to be tamed; none for most operations."""
    name, operands = eqn.primitive.name, eqn.invars
    if not args or not jnp.issubdtype(jnp.result_type(args[0]), jnp.floating):
        return ()
    # Scaling by a number written in the program: the slope is that number.
    if name == "mul" and any(isinstance(atom, Literal) for atom in operands):
        return ()
    if name == "div" and isinstance(operands[1], Literal):
        return ()
    if name == "integer_pow":
        y = eqn.params["y"]
        return (lambda x: y * x ** (y - 1),)
    return _SLOPES.get(name, ())


def _tame(bind: Callable[..., Array], slopes: Sequence) -> Callable[..., Array]:
    """An elementwise operation whose slopes are 0 wherever they are not finite."""
    fn = jax.custom_jvp(bind)

    def rule(primals, tangents):
        out = fn(*primals)
        total = jnp.zeros_like(out)
        for slope, tangent in zip(slopes, tangents, strict=True):
            if isinstance(tangent, SymbolicZero):
                continue
            # Guarded itself, for the sake of second derivatives.
            s = guard(slope)(*primals)
            total = total + jnp.where(jnp.isfinite(s), s, 0.0) * tangent
        return out, total

    fn.defjvp(rule, symbolic_zeros=True)
    return fn
