"""Imports go one way: who may know whom is a table, and every import in the sources obeys it."""

from __future__ import annotations

import ast
import graphlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "ensemble_view"

# A folder is one component, known by its name, but for a file that has a line of its own. Whoever
# adds a module says here what it may know.
ALLOWED: dict[str, str] = {
    "printable": "",
    "shared_state": "",
    "errors": "printable",
    "reading": "errors",
    "seeds": "errors",
    # What is done to a net, as values; no tensor is needed to read or test these.
    "interventions": "errors",
    "plan": "errors interventions",
    "paths.lengths": "errors",
    # From a model to a chain, and a chain at work.
    "sites": "",
    "parts": "errors",
    "chain": "errors parts plan",
    "alteration": "chain errors parts plan",
    "discovery": "chain errors sites shared_state",
    "hooks": "alteration chain discovery errors interventions parts plan sites shared_state",
    "shortening": "chain discovery parts plan",
    "extraction": "alteration chain discovery errors interventions parts plan shortening",
    "fusion": "chain parts",
    "measures": "errors",
    "engine": "alteration chain errors fusion measures plan",
    "calibration": "engine shared_state",
    "paths": "chain errors parts paths.lengths",
    # From outcomes to what people read.
    "statistics": "errors",
    "results": "errors paths.lengths printable reading statistics",
    "figures": "errors results",
    # Nets and data.
    "bundled": "errors",
    "weights_file": "errors reading",
    "description": "errors reading",
    "models": "errors",
    "fitting": "errors",
    "adapters": "errors models reading shared_state",
    "extracted_files": "chain discovery errors extraction interventions plan shortening",
    "checkpoints": "adapters bundled description errors extracted_files fitting models reading"
    " shared_state weights_file",
    "datasets.normalisation": "errors",
    "datasets": "adapters bundled datasets.normalisation errors measures reading seeds",
    "training": "checkpoints datasets errors models reading seeds shared_state weights_file",
    # What puts it all together.
    "studies": "adapters alteration calibration chain checkpoints datasets datasets.normalisation"
    " discovery engine errors extracted_files hooks interventions measures models paths"
    " paths.lengths plan printable results seeds shared_state statistics weights_file",
    "bench": "chain discovery engine errors fusion hooks interventions plan",
    "cli": "bench checkpoints datasets discovery errors paths.lengths printable reading results"
    " seeds studies training weights_file",
}

# Imports inside a function: a result draws itself, but only when it is asked to.
DEFERRED = {("results", "figures")}

WITHOUT_TORCH = (
    "errors",
    "interventions",
    "paths/lengths",
    "plan",
    "reading",
    "statistics",
    "results",
    "figures",
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
        assert known in allowed or (name, known) in DEFERRED, (
            f"{file.name}:{line} imports {known}, which {name} should not know"
        )


def test_the_table_has_no_cycle_and_no_module_that_is_gone():
    graph = {name: allowed.split() for name, allowed in ALLOWED.items()}
    order = list(graphlib.TopologicalSorter(graph).static_order())
    assert order.index("cli") > order.index("studies") > order.index("engine")
    present = {component(file) for file in sources()}
    assert set(ALLOWED) <= present
    assert {known for allowed in graph.values() for known in allowed} <= set(ALLOWED)


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
KNOWING = ("adapters", "datasets.normalisation", "discovery", "models")

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
    if component(file) in KNOWING:
        return
    assert family_names(file.read_text(encoding="utf-8")) == []
    libraries = [target for target, _ in imported(file) if target.startswith(LIBRARIES)]
    assert libraries == [], f"{file.name} imports {libraries}"
