"""Convolutions and pooling computed by slices and one matrix product.

On the CPU backend a native convolution takes several times as long as the product of
its patches with the kernel, its derivatives longer still, and the derivative of a
pooling scatters entry by entry. The functions here change how a program computes, and
nothing that its author wrote.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, jaxpr_as_fun

Function = TypeVar("Function", bound=Callable[..., Any])


def convolutions_as_products(fn: Function) -> Function:
    """The same function, its convolutions as products of patches with the kernel.

    Windows of max and sum pooling are combined slice by slice. Whatever else is in the
    function, and every convolution that is grouped, transposed or within a `cond`, a
    `while` or a rule of its own (`custom_jvp`, `custom_vjp`), stays as it is. Patches
    take k² / s² times the bytes of the input, s the stride.

    Args:
      fn: any JAX function of pytrees, a loss say. Numbers of Python's type `float` and
        arrays may be traced, all else (`bool`, `int`, `str`, ...) stays static.

    Returns:
      A function equal to rounding, of any derivative. On ties a maximum's derivative
      goes to the first entry, as in the native one.

    Example:
      >>> import jax, jax.numpy as jnp, hypergrad as hg
      >>> smooth = lambda x: jax.lax.conv(x, jnp.ones((1, 1, 2, 2)), (1, 1), "VALID")
      >>> hg.convolutions_as_products(smooth)(jnp.ones((1, 1, 2, 3)))
      Array([[[[4., 4.]]]], dtype=float32)
    """

    @functools.wraps(fn)
    def changed(*args, **kwargs):
        leaves, treedef = jax.tree.flatten((args, kwargs))
        traced = [isinstance(leaf, _TRACED) for leaf in leaves]
        moving = [leaf for leaf, moves in zip(leaves, traced, strict=True) if moves]

        def of_moving(*moving):
            given = iter(moving)
            mixed = [
                next(given) if moves else leaf
                for leaf, moves in zip(leaves, traced, strict=True)
            ]
            args, kwargs = jax.tree.unflatten(treedef, mixed)
            return fn(*args, **kwargs)

        program, shapes = jax.make_jaxpr(of_moving, return_shape=True)(*moving)
        results = _run(program, *moving)
        return jax.tree.unflatten(jax.tree.structure(shapes), results)

    result: Any = changed
    return result


_TRACED = (jax.Array, np.ndarray, np.generic, float)


def _run(program: ClosedJaxpr, *args):
    """Evaluate a program with what is changed changed."""
    values = dict(zip(program.jaxpr.constvars, program.consts, strict=True))
    values.update(zip(program.jaxpr.invars, args, strict=True))

    def read(atom):
        return atom.val if isinstance(atom, Literal) else values[atom]

    for equation in program.jaxpr.eqns:
        change = _change(equation)
        if change is None:
            alone, inputs = _alone(equation, program.jaxpr)
            results = alone(*map(read, inputs))
        else:
            results = change(*map(read, equation.invars))
        values.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in program.jaxpr.outvars]


def _alone(equation, program: Jaxpr):
    """A function that does what one equation of a program does, and its arguments."""
    inputs = dict.fromkeys(a for a in equation.invars if not isinstance(a, Literal))
    single = program.replace(
        constvars=[],
        invars=list(inputs),
        outvars=equation.outvars,
        eqns=[equation],
        effects=equation.effects,
    )
    return jaxpr_as_fun(ClosedJaxpr(single, ())), list(inputs)


def _change(equation) -> Callable[..., list] | None:
    """What takes the place of an equation, if anything does."""
    name, params = equation.primitive.name, equation.params
    if name == "conv_general_dilated" and _is_plain(params):
        return lambda x, kernel: [_convolve(x, kernel, params)]
    if name in _POOLS and all(d == 1 for d in params["base_dilation"]):
        return lambda x: [_pool(x, params, *_POOLS[name](x.dtype))]
    if name in ("jit", "pjit") and _has_any(params["jaxpr"].jaxpr):
        return functools.partial(_run, params["jaxpr"])
    if name in ("checkpoint", "remat2", "remat") and _has_any(params["jaxpr"]):
        return jax.checkpoint(
            functools.partial(_run, ClosedJaxpr(params["jaxpr"], ())),
            prevent_cse=params["prevent_cse"],
            policy=params["policy"],
        )
    if name == "scan" and _has_any(params["jaxpr"].jaxpr):
        return functools.partial(_scan, params)
    return None


def _has_any(program: Jaxpr) -> bool:
    return any(_change(equation) is not None for equation in program.eqns)


def _scan(params, *operands):
    num_consts, num_carry = params["num_consts"], params["num_carry"]
    consts, rest = operands[:num_consts], operands[num_consts:]

    def body(carry, xs):
        results = _run(params["jaxpr"], *consts, *carry, *xs)
        return results[:num_carry], results[num_carry:]

    carry, ys = jax.lax.scan(
        body,
        list(rest[:num_carry]),
        list(rest[num_carry:]),
        length=params["length"],
        reverse=params["reverse"],
        unroll=params["unroll"],
    )
    return [*carry, *ys]


def _is_plain(params) -> bool:
    """Neither transposed nor in groups, of floats at the precision of the operands."""
    groups = params["feature_group_count"], params["batch_group_count"]
    preferred = params["preferred_element_type"]
    return (
        all(d == 1 for d in params["lhs_dilation"])
        and groups == (1, 1)
        and (preferred is None or jnp.issubdtype(preferred, jnp.floating))
    )


def _convolve(x, kernel, params):
    """y[n, p, f] = Σ_{o, c} x[n, s p + d o, c] k[o, c, f], o the offsets."""
    lhs, rhs, out = params["dimension_numbers"]
    x = jnp.transpose(x, (lhs[0], *lhs[2:], lhs[1]))
    kernel = jnp.transpose(kernel, (*rhs[2:], rhs[1], rhs[0]))
    pads = [(0, 0, 0), *((*pad, 0) for pad in params["padding"]), (0, 0, 0)]
    x = patches(
        jax.lax.pad(x, jnp.zeros((), x.dtype), pads),
        kernel.shape[:-2],
        params["window_strides"],
        params["rhs_dilation"],
    )
    y = jax.lax.dot_general(
        x.reshape(-1, x.shape[-1]),
        kernel.reshape(-1, kernel.shape[-1]),
        (((1,), (0,)), ((), ())),
        precision=params["precision"],
        preferred_element_type=params["preferred_element_type"],
    ).reshape(*x.shape[:-1], -1)
    # To the order that `out` asks for: batch, features and then the positions.
    return jnp.transpose(jnp.moveaxis(y, -1, 1), np.argsort(out).tolist())


def patches(
    x: jax.Array,
    sizes: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> jax.Array:
    """[B, positions, C] ↦ [B, positions of the window, Π k · C], ordered (offsets, c).

    Args:
      x: with as many axes between the first and the last as there are sizes.
      sizes: k of the window along each of these.
      strides: s, from one position of it to the next.
      dilations: d, from one of its entries to the next.
    """
    # An axis after the other: Σ k slices in place of Π k, which are compiled sooner.
    for axis, window in enumerate(zip(sizes, strides, dilations, strict=True), 1):
        x = jnp.stack(_slices(x, axis, *window), -2)
    return x.reshape(*x.shape[: 1 + len(sizes)], -1)


def _slices(x, axis, size, stride, dilation):
    """x[s p + d o] over the positions p of a window, an array for each offset o."""
    positions = (x.shape[axis] - dilation * (size - 1) - 1) // stride + 1
    reach = stride * (positions - 1) + 1
    return [
        jax.lax.slice_in_dim(x, first, first + reach, stride, axis)
        for first in range(0, dilation * size, dilation)
    ]


def _first_of_largest(a, b):
    """The maximum; NaN if there is one."""
    return jnp.where((b > a) | (b != b), b, a)


_POOLS = {
    "reduce_window_max": lambda dtype: (_first_of_largest, _lowest(dtype)),
    "reduce_window_sum": lambda dtype: (jnp.add, 0),
}


def _lowest(dtype):
    return -jnp.inf if jnp.issubdtype(dtype, jnp.inexact) else jnp.iinfo(dtype).min


def _pool(x, params, combine, neutral):
    padding = [(*pad, 0) for pad in params["padding"]]
    x = jax.lax.pad(x, jnp.asarray(neutral, x.dtype), padding)
    windows = zip(
        params["window_dimensions"],
        params["window_strides"],
        params["window_dilation"],
        strict=True,
    )
    # The last axis first, so that of equal entries the first in order is taken.
    for axis, window in reversed(list(enumerate(windows))):
        x = functools.reduce(combine, _slices(x, axis, *window))
    return x
