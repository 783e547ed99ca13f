"""Imports go one way: who may know whom is a table, and every import in the sources obeys it."""

from __future__ import annotations

import ast
import graphlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "ensemble_view"

# A folder is one room, known by its name, but for a module that has a line of its own. Whoever
# adds a room says here what it may know.
ALLOWED: dict[str, str] = {
    "shared_state": "",
    "former_paths": "",
    "errors": "",
    "reading": "errors",
    "statistics": "errors",
    "measures": "errors",
    "figures": "",
    # What is done to a net as values, and a chain at work: read this first. No tensor is needed to
    # read or test the values.
    "core.interventions": "errors",
    "core.plan": "core.interventions errors",
    "core.trie": "core.plan",
    "core": "core.interventions core.plan core.trie errors measures shared_state",
    # From a model to a chain, and to edited nets.
    "discovery": "core core.plan errors shared_state",
    "edits": "core core.interventions core.plan discovery errors shared_state",
    "paths.lengths": "errors",
    "paths": "core errors paths.lengths",
    # Nets and data.
    "nets": "edits errors reading shared_state",
    "data": "errors measures nets reading",
    "training": "data errors nets reading shared_state",
    # What every study is made of, the studies, and who calls them.
    "study": "core core.interventions core.plan data discovery errors figures measures nets paths"
    " paths.lengths reading shared_state statistics",
    "studies": "core core.interventions core.plan core.trie data discovery edits errors figures"
    " measures nets paths paths.lengths statistics study",
    "bench": "core core.interventions core.plan core.trie discovery edits errors",
    "cli": "bench data errors nets paths.lengths reading studies study training",
}

# Within the core, too, imports go one way.
IN_THE_CORE = {
    "interventions": "",
    "plan": "interventions",
    "trie": "plan",
    "sites": "",
    "parts": "",
    "chain": "parts plan",
    "alteration": "chain parts plan",
    "fusion": "chain parts",
    "engine": "alteration chain fusion parts plan trie",
}

WITHOUT_TORCH = (
    "errors",
    "core/interventions",
    "core/plan",
    "core/trie",
    "figures",
    "paths/lengths",
    "reading",
    "statistics",
)

LONGEST_FILE = 500


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def component(file: Path) -> str:
    return known_as(".".join(file.relative_to(PACKAGE).with_suffix("").parts))


def known_as(name: str) -> str:
    """The component that a dotted name within the package belongs to."""
    parts = name.split(".")
    own = ".".join(parts[:2])
    return own if own in ALLOWED else parts[0]


def imported(file: Path) -> Iterator[tuple[str, int]]:
    """Full names of what a file imports, with the line; names from a package are joined to it."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file.name}:{node.lineno} imports relatively"
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


@pytest.mark.parametrize("file", sources(), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_a_module_imports_only_what_the_table_allows(file):
    name = component(file)
    if name in ("__init__", "__main__"):
        return
    assert name in ALLOWED, f"{name} is new: say in the table of this test what it may import"
    allowed = {*ALLOWED[name].split(), name}
    for target, line in imported(file):
        package, _, rest = target.partition(".")
        if package != PACKAGE.name or (name == "cli" and rest in ("", "__version__")):
            continue
        known = known_as(rest)
        assert known in ALLOWED, f"{file.name}:{line} imports {target}, which defines nothing"
        assert known in allowed, f"{file.name}:{line} imports {known}, which {name} must not know"


@pytest.mark.parametrize(
    "file", sorted((PACKAGE / "core").rglob("*.py")), ids=lambda file: file.stem
)
def test_the_core_is_read_from_the_ground_up(file):
    name = file.relative_to(PACKAGE / "core").with_suffix("").parts[0]
    if name == "__init__":
        return
    for target, line in imported(file):
        _, _, rest = target.partition(f"{PACKAGE.name}.core.")
        known = rest.split(".")[0]
        assert not rest or known in {*IN_THE_CORE[name].split(), name}, (
            f"{file.name}:{line} imports {known}, which stands above it"
        )


def test_the_table_has_no_cycle_and_no_module_that_is_gone():
    graph = {name: allowed.split() for name, allowed in ALLOWED.items()}
    order = list(graphlib.TopologicalSorter(graph).static_order())
    assert order.index("cli") > order.index("studies") > order.index("study") > order.index("core")
    present = {component(file) for file in sources()}
    assert set(ALLOWED) <= present
    assert {known for allowed in graph.values() for known in allowed} <= set(ALLOWED)


def test_no_files_import_each_other_in_a_circle():
    """Imports for type checkers and within functions count, too."""
    files = {".".join(f.relative_to(PACKAGE).with_suffix("").parts): f for f in sources()}
    names = {name.removesuffix(".__init__"): file for name, file in files.items()}
    graph: dict[str, set[str]] = {}
    for name, file in names.items():
        known = {target.removeprefix(f"{PACKAGE.name}.") for target, _ in imported(file)}
        # A name from a module is joined to it; a module from a package is itself.
        joined = {each if each in names else each.rpartition(".")[0] for each in known}
        graph[name] = {each for each in joined if each in names and each != name}
    del graph["__init__"]  # The package's face, which everything stands behind.
    assert len(graph) > 150
    assert sum(map(len, graph.values())) > 500
    graphlib.TopologicalSorter(graph).prepare()


def test_only_the_entry_point_imports_the_command_line():
    importers = {
        component(file)
        for file in sources()
        for target, _ in imported(file)
        if target.startswith(f"{PACKAGE.name}.cli")
    }
    assert importers - {"cli"} == {"__main__"}


@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_what_needs_no_tensors_imports_no_torch(name):
    folder = PACKAGE / name
    files = folder.rglob("*.py") if folder.is_dir() else [PACKAGE / f"{name}.py"]
    targets = [target for file in files for target, _ in imported(file)]
    assert not [target for target in targets if target.split(".")[0] in ("torch", "torchvision")]


@pytest.mark.parametrize("file", sources(), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_files_are_short_enough_to_read(file):
    assert len(file.read_text(encoding="utf-8").splitlines()) <= LONGEST_FILE


# Only these may treat other people's nets by name, or import the libraries that hold them.
KNOWING = ("nets/adapters", "nets/models", "data/normalisation", "discovery")

FAMILY = re.compile(
    r"(res|dense|mobile|efficient|reg|mnas|shuffle|squeeze|alex|google|conv)ne(x)?t|vgg|inception"
    r"|maxvit|mixer|resmlp|poolformer|metaformer|coatnet|roberta|distilbert"
    r"|(?<![a-z])(vit|deit|beit|cait|xcit|levit|swin)(?![a-z])"
    r"|(?<![a-z])(bert|gpt|llama|mistral|qwen|gemma|whisper|opt|t5)(?![a-z])"
    r"|(torchvision|timm|transformers|hf-hub):",
    re.IGNORECASE,
)
LIBRARIES = ("timm", "transformers", "huggingface_hub", "torchvision.models")


def docstrings(tree: ast.AST) -> set[ast.AST]:
    """Every bare string: docstrings of modules, classes, functions and of single names."""
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}


def family_names(source: str) -> list[str]:
    """The families that code knows: in names and in strings that are no prose."""
    tree = ast.parse(source)
    prose = docstrings(tree)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in prose:
            # A sentence, such as a help text or an error with examples, cannot be compared.
            words = [] if len(node.value.split()) > 1 else [node.value]
        elif isinstance(node, ast.Name):
            words = [node.id]
        elif isinstance(node, ast.Attribute):
            words = [node.attr]
        elif isinstance(node, ast.FunctionDef | ast.ClassDef | ast.alias):
            words = [node.name]
        else:
            continue
        # gpt2 and GPT2Block are of one family: neither digits nor capitals hide it.
        apart = [re.sub(r"(?<=[a-z0-9])(?=[A-Z])|_|(?<=\D)(?=\d)", " ", word) for word in words]
        found += [word for word, form in zip(words, apart, strict=True) if names_family(word, form)]
    return found


def names_family(*forms: str) -> bool:
    return any(FAMILY.search(form) for form in forms)


@pytest.mark.parametrize(
    "code",
    [
        'if name.startswith("torchvision:"): pass',
        'if type(model).__name__ == "GPT2Block": pass',
        'side = {"vit_b_16": 224}',
        'f"timm:{name}"',
        "isinstance(model, BertLayer)",
        "from somewhere import SwinTransformer",
        "torchvision.models.resnet18()",
        "def for_t5(model): pass",
    ],
)
def test_code_that_knows_a_family_would_be_found(code):
    assert family_names(code)


@pytest.mark.parametrize(
    "code",
    [
        '"""ResNets and ViTs."""',
        'raise ValueError("expected a name such as resnet50")',
        'options = {"activity": adopted, "model": optimizer}',
    ],
)
def test_prose_and_words_that_are_like_a_family_are_let_be(code):
    assert not family_names(code)


@pytest.mark.parametrize("file", sources(), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_only_discovery_and_adapters_know_a_family_by_name(file):
    if file.relative_to(PACKAGE).with_suffix("").as_posix().startswith(KNOWING):
        return
    assert family_names(file.read_text(encoding="utf-8")) == []
    libraries = [target for target, _ in imported(file) if target.startswith(LIBRARIES)]
    assert libraries == [], f"{file.name} imports {libraries}"
