"""Compile a function of tensors with Inductor into one graph that is cheap to call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from trainer.build.compiler_cache import with_rebuilt_libraries
from trainer.build.graph_store import GraphStore, caller, entry_of
from trainer.build.narrow import narrow_products
from trainer.build.search import searches
from trainer.types import Function

ON_A_CPU = {
    "cpp_wrapper": True,
    "memory_planning": True,  # one allocation for all intermediate results
    "size_asserts": False,  # 0.3 us each; arguments are buffers, or choose their graph by shape and strides
}
"""Options of the compiler that make a call cheaper."""


def compile_function(
    function: Function, example: Sequence[Tensor], *, tried: bool = True, vectors: bool = True
) -> Function:
    """Return `function` as one graph, compiled for tensors like those of `example`.

    tried: run it once, on these; vectors: use SIMD on a CPU.

    It is traced by torch.fx, not by Dynamo, whose guards a pure function of tensors does not need: they would cost a
    quarter of a small update. On a CPU the code between kernels is C++ as well, and a later start that asks for the
    same graph gets it without the compiler.
    """
    assert len({id(tensor) for tensor in example}) == len(example), "a tracer would take two of them for one"
    options = {
        "optimize_scatter_upon_const_tensor": False,  # it rounds the constant to single precision
        **(ON_A_CPU if example[0].device.type == "cpu" else {}),
        **({} if vectors else {"cpp.simdlen": 1}),
    }
    store = GraphStore(function, example, options)

    def compile() -> Function:
        compiled = store.load() or _compile(function, example, options, store)
        if tried:
            compiled(*example)
        return compiled

    return with_rebuilt_libraries(compile)


def compile_step(function: Function, example: Sequence[Tensor]) -> Function:
    """Return an environment step as one graph. Without SIMD, which makes rows of ten flags 20 times slower."""
    return compile_function(function, example, vectors=False)


def _compile(function: Function, example: Sequence[Tensor], options: dict[str, Any], store: GraphStore) -> Function:
    """Trace a function and return what Inductor makes of it, without the wrappers of AOTAutograd and Dynamo.

    These cost 5 to 9 µs per call for aliases, subclasses and grad modes, which a graph without gradients does not need.
    They are dropped only on a CPU, and only if the inner graph takes and returns what the outer one does, one for one.
    """
    from torch._inductor.compile_fx import compile_fx, compile_fx_inner  # takes two seconds
    from torch.fx.experimental.proxy_tensor import make_fx

    trace = make_fx(function, narrow_products() | searches(), tracing_mode="fake", _allow_non_fake_inputs=True)
    graph = trace(*example)
    constants = _lift(graph)
    arguments = [*example, *constants]
    inner: list[Function] = []

    def note(inside: fx.GraphModule, given: Sequence[Any], **how: Any) -> Any:
        made: Any = compile_fx_inner(inside, given, **how)
        same = len(given) == len(arguments) and _results(inside) == _results(graph)
        if same and example[0].device.type == "cpu" and hasattr(made, "current_callable"):
            inner.append(made.current_callable)
        return made

    with torch._functorch.config.patch(enable_autograd_cache=False):  # a cache hit would return the wrapped whole
        whole: Any = compile_fx(graph, arguments, inner_compile=note, config_patches=options)
    if len(inner) != 1:
        return lambda *given: whole(*given, *constants)
    bare: Any = inner[0]
    if (entry := entry_of(bare)) is None:
        return lambda *given: bare([*given, *constants])
    store.keep(entry, constants)
    return caller(entry, constants)


def _lift(graph: fx.GraphModule) -> list[Tensor]:
    """Turn the tensors that a graph closes over into arguments after the others; return them."""
    *_, last = graph.graph.find_nodes(op="placeholder")
    arguments: dict[str, fx.Node] = {}
    for node in graph.graph.find_nodes(op="get_attr"):
        name = str(node.target)
        if name not in arguments:
            with graph.graph.inserting_after(last):
                last = arguments[name] = graph.graph.placeholder(f"constant_{len(arguments)}")
            last.meta.update(node.meta)
        node.replace_all_uses_with(arguments[name])
        graph.graph.erase_node(node)
    tensors = [getattr(graph, name) for name in arguments]
    for name in arguments:
        delattr(graph, name)
    graph.recompile()
    return tensors


def _results(graph: fx.GraphModule) -> int:
    """Return how many values a graph returns."""
    (output,) = graph.graph.find_nodes(op="output")
    return len(output.args[0])
