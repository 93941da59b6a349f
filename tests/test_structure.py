"""The shape of the code: imports go one way, importing is cheap, every command explains itself."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import muki
from muki.cli import app

SOURCE = Path(muki.__file__).parent

# Each room may import from the rooms before it (and from itself).
ROOMS = [
    "errors", "validation", "files", "formulas", "certainty", "arrow", "hashing", "processes", "compute",
    "checkpoints", "tokenization", "hidden_states", "progress", "labels", "texts", "batches", "teachers", "routing",
    "methods", "overrides", "config", "run_folder", "scored", "engines", "view", "integration", "student", "stale",
    "predict", "evaluation", "report", "finetuning", "preparation", "pipeline", "explanation", "explain", "inspection",
    "publishing", "experiments", "api", "demo", "cli_base", "cli_look", "cli", "__main__",
]  # fmt: skip


PURE = {"formulas", "certainty", "routing"}  # arrays in, arrays out
PURE_IMPORTS = {"muki", "numpy", "scipy", "sklearn"} | (sys.stdlib_module_names - {"os", "io", "pathlib", "logging"})


def imports(path: Path) -> list[str]:
    """The modules that a file imports, those inside functions too; `muki.x` also for `from muki import x`."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "muki":
            found += [f"muki.{alias.name}" for alias in node.names if not alias.name.startswith("__")]
        elif isinstance(node, ast.ImportFrom):
            found.append(node.module or "")
    return found


def rooms() -> list[tuple[Path, str]]:
    """Every source file but the package's own, with the room it is in."""
    paths = [path.relative_to(SOURCE) for path in SOURCE.rglob("*.py")]
    return [(path, path.with_suffix("").parts[0]) for path in paths if path != Path("__init__.py")]


def test_imports_go_down_the_list_only():
    wrong = []
    for path, room in rooms():
        targets = [name.split(".")[1] for name in imports(SOURCE / path) if name.startswith("muki.")]
        wrong += [(str(path), target) for target in targets if ROOMS.index(target) > ROOMS.index(room)]
    assert not wrong


def test_the_method_is_pure():
    wrong = []
    for path, room in rooms():
        if room in PURE:
            wrong += [(str(path), n) for n in imports(SOURCE / path) if n.split(".")[0] not in PURE_IMPORTS]
    assert not wrong


def test_importing_muki_loads_neither_torch_nor_transformers():
    heavy = ("torch", "transformers", "pandas", "pyarrow", "numpy", "matplotlib")
    code = f"import sys, muki; print([name for name in {heavy} if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_every_public_name_can_be_had():
    for name in muki.__all__:
        assert getattr(muki, name) is not None
    with pytest.raises(AttributeError, match=r"^module 'muki' has no attribute 'nothing'$"):
        muki.nothing  # noqa: B018


def commands() -> list[str]:
    return [command.name or command.callback.__name__ for command in app.registered_commands]


def test_the_commands_are_those_documented():
    assert commands() == [
        "integrate", "run", "score", "supervise", "train", "evaluate", "predict", "finetune", "compare", "demo",
        "inspect", "report", "explain", "push", "export",
    ]  # fmt: skip


@pytest.mark.parametrize("command", commands())
def test_help_has_an_example(command: str):
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert re.search(rf"Example: (muki|accelerate launch -m muki) {command}", result.output)


def test_no_module_outgrows_its_room():
    long = {p.name: n for p in SOURCE.rglob("*.py") if (n := p.read_text(encoding="utf-8").count("\n")) > 350}
    assert not long


def test_the_reference_is_that_of_the_models():
    docs = Path(__file__).parents[1] / "docs"
    found = subprocess.run(
        [sys.executable, "-c", "import reference; print(reference.page(), end='')"],
        cwd=docs, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert found == (docs / "reference.md").read_text(encoding="utf-8"), "run `make docs`"


# --- pages -----------------------------------------------------------------------------------------------------------

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "benchmarks" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def anchors(page: Path) -> set[str]:
    """What a link may name after `#`: the headings, in lower case, without punctuation, hyphens for spaces."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_of_the_pages_lead_somewhere(page: Path):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        where, _, anchor = link.partition("#")
        if not where.startswith("https://"):
            target = page.parent / where if where else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link
