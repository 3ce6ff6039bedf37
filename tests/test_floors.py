"""The house stands: a file imports from its own floor or those below, no circles."""

import ast
from pathlib import Path

import hypergrad

ROOT = Path(hypergrad.__file__).parent
FLOORS = [
    {"typing", "tree", "checkpoints"},
    {
        "projections",
        "hyperparameters",
        "space",
        "schedules",
        "penalties",
        "gradients",
        "guard",
        "safe_optax",
        "batches",
        "linear_solvers",
        "outputs",
        "proximal",
        "flops",
        "augment",
        "choices",
        "convolutions",
        "dropout",
        "layers",
        "losses",
        "sparse",
    },
    {"dynamics", "training", "problem", "unroll", "curvature"},
    {"estimators"},
    {
        "api",
        "agreement",
        "verify",
        "advice",
        "growth",
        "diagnose",
        "plan",
        "replay",
    },
    {"searchers"},
    {
        "training_keys",
        "trials",
        "execution",
        "sharding",
        "runner",
        "by_choice",
        "stretches",
        "partial",
        "study",
        "online",
    },
    {"models"},
]


def modules():
    """{module: names of the modules of hypergrad that it imports}."""
    found = {}
    for path in ROOT.rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        imports = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                if node.module == "hypergrad":
                    imports |= {alias.name for alias in node.names}
                elif node.module.startswith("hypergrad."):
                    imports.add(node.module.removeprefix("hypergrad."))
        found[name] = imports
    return found


def floor(module):
    top = module.split(".")[0]
    floors = [i for i, names in enumerate(FLOORS) if top in names]
    assert len(floors) == 1, f"{top} stands on no floor of tests/test_floors.py"
    return floors[0]


def test_files_import_from_floors_below_only():
    for module, imports in modules().items():
        if module == "__init__":
            continue
        for imported in imports:
            assert floor(imported) <= floor(module), f"{module} imports {imported}"


def test_no_circles():
    graph = {m: i for m, i in modules().items() if m != "__init__"}
    graph = {m.removesuffix(".__init__"): i for m, i in graph.items()}
    done, open_ = set(), []

    def visit(module):
        assert module not in open_, f"circle: {[*open_, module]}"
        if module in done or module not in graph:
            return
        open_.append(module)
        for imported in graph[module]:
            if imported != module:
                visit(imported)
        open_.pop()
        done.add(module)

    for module in graph:
        visit(module)


def test_the_library_knows_no_application():
    banned = {
        "experiments",
        "matplotlib",
        "typer",
        "pydantic",
        "jinja2",
        "rich",
        "sklearn",
    }
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                assert name.split(".")[0] not in banned, f"{path.name} imports {name}"


def test_importing_the_core_is_light():
    """No flax, no scipy, no plotting: they are loaded where they are used."""
    import subprocess
    import sys

    code = "import hypergrad, sys; print('\\n'.join(sys.modules))"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    loaded = {line.split(".")[0] for line in out.splitlines()}
    assert loaded.isdisjoint({"flax", "matplotlib", "sklearn", "optuna", "pydantic"})


def test_files_are_small():
    for path in ROOT.rglob("*.py"):
        lines = len(path.read_text().splitlines())
        assert lines <= 400, f"{path} has {lines} lines: does it hold two ideas?"
