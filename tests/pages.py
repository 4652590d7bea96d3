"""Write the pages of docs/ that are made from the code and the tests: `python3 dev.py docs`.

docs/hardening.md and docs/checklist.md come from tests/rows.toml and the `row` marks of the tests, docs/config.md
from the settings classes, docs/cli.md from the commands.
"""

import ast
import dataclasses
import sys
import tomllib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from inspect import cleandoc
from pathlib import Path
from typing import Any, Final, get_args, get_type_hints

import typer.main

from gatepost.base.settings import field_notes
from gatepost.base.units import Octets, Seconds
from gatepost.cli.commands import app
from gatepost.config import Config

ROOT: Final = Path(__file__).resolve().parent.parent
ROWS_FILE: Final = ROOT / "tests" / "rows.toml"

Rows = Mapping[str, Mapping[str, Mapping[str, str]]]
Marks = Mapping[str, list[str]]


def main() -> int:
    """Write all pages; print what changed."""
    for name, make in PAGES.items():
        page, text = ROOT / "docs" / name, make()
        if not page.exists() or page.read_text() != text:
            page.write_text(text)
            sys.stdout.write(f"wrote {page.relative_to(ROOT)}\n")
    return 0


def rows() -> Rows:
    """Return tests/rows.toml: by page and id."""
    return tomllib.loads(ROWS_FILE.read_text())


def marks() -> Marks:
    """Return the tests that carry each row's mark, as `file::test`, read from their source."""
    found: dict[str, list[str]] = defaultdict(list)
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        tree = ast.parse(file.read_text())
        name = str(file.relative_to(ROOT))
        for row in _module_rows(tree):
            found[row].append(name)
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                for row in _rows_in(node.decorator_list):
                    found[row].append(f"{name}::{node.name}")
    return found


def _module_rows(tree: ast.Module) -> Iterator[str]:
    """Yield the ids that stand outside functions: `pytestmark`, and lists of cases that carry marks."""
    return _rows_in(
        [node.value for node in tree.body if isinstance(node, ast.Assign | ast.AnnAssign) and node.value]
    )


def _rows_in(nodes: list[ast.expr]) -> Iterator[str]:
    """Yield the ids of `pytest.mark.row("A", "B")` anywhere in some expressions (parametrize's `marks=` too)."""
    for node in nodes:
        for call in ast.walk(node):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "row":
                for value in call.args:
                    if isinstance(value, ast.Constant) and isinstance(value.value, str):
                        yield value.value


# --- rows ---------------------------------------------------------------------------------------------------


def hardening_page() -> str:
    """Return docs/hardening.md."""
    found, proofs = rows()["hardening"], marks()
    areas: dict[str, list[str]] = defaultdict(list)
    for row, facts in found.items():
        given, expected = _cell(facts["given"]), _cell(facts["expected"])
        areas[facts["area"]].append(f"| {row} | {given} | {expected} | {_state(row, facts, proofs)} |")
    lines = [
        "# Attacks and faults",
        "",
        _made_by("Each row is something that a stranger, a disk or a crash does to a mail server, and what must"),
        "come of it.",
        "",
        _summary(found, proofs),
    ]
    for area, cells in areas.items():
        lines += ["", f"## {area}", "", "| row | given | expected | state |", "| --- | --- | --- | --- |", *cells]
    return "\n".join(lines) + "\n"


def checklist_page() -> str:
    """Return docs/checklist.md."""
    found, proofs = rows()["checklist"], marks()
    lines = [
        "# What users can do",
        "",
        _made_by("Each row is one thing that the daisy chain of programs before gatepost could do, or that its"),
        "readers asked for. A row works when a test with its id shows all of it.",
        "",
    ]
    states = Counter(_working(row, facts, proofs) for row, facts in found.items())
    lines += [
        f"{len(found)} rows: {states['works']} work, {states['partly']} work partly, {states['no']} do not yet.",
        "",
        "| row | the user can | state | tests |",
        "| --- | --- | --- | --- |",
    ]
    for row, facts in found.items():
        able, state = _cell(facts["able"]), _working(row, facts, proofs)
        notes = [_cell(facts[name]) for name in ("partly", "pending", "different") if name in facts]
        told = "; ".join(([_links(row, proofs)] if row in proofs else []) + notes)
        lines.append(f"| {row} | {able} | {state} | {told} |")
    return "\n".join(lines) + "\n"


def _working(row: str, facts: Mapping[str, str], proofs: Marks) -> str:
    if row not in proofs:
        return "no"
    return "partly" if "partly" in facts else "works"


def _links(row: str, proofs: Marks) -> str:
    tests = [f"[{_short(each)}](../{each.partition('::')[0]})" for each in proofs[row][:3]]
    more = f" and {len(proofs[row]) - 3} more" if len(proofs[row]) > 3 else ""
    return f"{', '.join(tests)}{more}"


def _made_by(text: str) -> str:
    return f"Made by `python3 dev.py docs`; do not edit. {text}"


def _summary(found: Mapping[str, Mapping[str, str]], proofs: Marks) -> str:
    proven = sum(row in proofs for row in found)
    different = sum("different" in facts and row not in proofs for row, facts in found.items())
    pending = len(found) - proven - different
    return f"{len(found)} rows: {proven} proven by tests, {different} reasoned differences, {pending} pending."


def _state(row: str, facts: Mapping[str, str], proofs: Marks) -> str:
    if row in proofs:
        note = f"; {_cell(facts['different'])}" if "different" in facts else ""
        return f"proven: {_links(row, proofs)}{note}"
    if "different" in facts:
        return f"**different**: {_cell(facts['different'])}"
    return f"pending: {_cell(facts.get('pending', ''))}"


def _short(test: str) -> str:
    file, _, name = test.partition("::")
    return (name or Path(file).stem).removeprefix("test_").replace("_", " ")


def _cell(text: str) -> str:
    """Escape what Markdown or HTML would take for its own."""
    for char in "\\`*_<>|[]":
        text = text.replace(char, f"\\{char}")
    return text.replace("\n", " ")


# --- settings -----------------------------------------------------------------------------------------------


def config_page() -> str:
    """Return docs/config.md."""
    lines = [
        "# Every setting",
        "",
        _made_by("One TOML file, `gatepost.toml`; what is left out has the"),
        "default shown. Lengths of time are written `25m`, `4h`, `36d`, sizes `50M`. `gatepost check` names file,",
        "line, key and remedy of a mistake; examples/home/gatepost.toml is a file to begin with.",
    ]
    for section, kind in _sections(Config, ""):
        lines += ["", f"## {section}", "", cleandoc(kind.__doc__ or ""), ""]
        notes, hints = field_notes(kind), get_type_hints(kind)
        for field in dataclasses.fields(kind):
            if not _settings_in(hints[field.name]):
                note = " ".join(notes.get(field.name, "").split())
                lines.append(f"* `{field.name}` ({_type(hints[field.name])}{_default(field)}): {note}")
    return "\n".join(lines) + "\n"


def _sections(kind: type, path: str) -> Iterator[tuple[str, type]]:
    for field in dataclasses.fields(kind):
        hint = get_type_hints(kind)[field.name]
        for inner in _settings_in(hint):
            listed = getattr(hint, "__origin__", None) is tuple
            mapped = not listed and hint is not inner
            name = f"{path}{field.name}" + (".NAME" if mapped else "")
            yield (f"[[{name}]]" if listed else f"[{name}]"), inner
            yield from _sections(inner, f"{name}.")


def _settings_in(hint: Any) -> list[type]:  # Any: a type expression
    """Return the settings classes in a type: itself, or what a tuple or mapping of them holds."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return [hint]
    return [each for each in get_args(hint) if isinstance(each, type) and dataclasses.is_dataclass(each)]


def _type(hint: Any) -> str:  # Any: a type expression
    if hint is Seconds:
        return "time"
    if hint is Octets:
        return "size"
    if isinstance(hint, type) and issubclass(hint, Enum):
        return " or ".join(f'"{each.value}"' for each in hint)
    origin, inner = getattr(hint, "__origin__", None), get_args(hint)
    if origin is tuple:
        return f"list of {_type(inner[0])}"
    if origin is not None and len(inner) == 2:
        return f"table of {_type(inner[1])}"
    names = {str: "text", bool: "true or false", int: "number", float: "number"}
    return names.get(hint, "text or list") if isinstance(hint, type) else "text or list"


def _default(field: "dataclasses.Field[object]") -> str:
    value = field.default
    if value is dataclasses.MISSING:
        return "" if field.default_factory is not dataclasses.MISSING else ", must be given"
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, bool):
        return f", default {str(value).lower()}"
    if isinstance(value, tuple):
        return f", default [{', '.join(repr(each) for each in value)}]" if value else ", default none"
    return f", default {value!r}" if value != "" else ""


# --- commands -----------------------------------------------------------------------------------------------


def cli_page() -> str:
    """Return docs/cli.md."""
    lines = [
        "# Every command",
        "",
        _made_by("`gatepost COMMAND --help` shows the same;"),
        "`gatepost --install-completion` lets the shell complete it.",
    ]
    for name, command in _commands(typer.main.get_command(app), "gatepost"):
        arguments = [each for each in command.params if each.param_type_name == "argument"]
        usage = " ".join([name, *((each.name or "").upper() for each in arguments)])
        lines += ["", f"## {usage}", "", " ".join((command.help or "").split()), ""]
        for each in command.params:
            if each.param_type_name == "option" and each.name not in ("help", "config"):
                words = ", ".join(f"`{word}`" for word in each.opts)
                lines.append(f"* {words}: {' '.join((getattr(each, 'help', '') or '').split())}")
    return "\n".join(lines).replace("\n\n\n", "\n\n").rstrip() + "\n"


def _commands(group: Any, path: str) -> Iterator[tuple[str, Any]]:  # Any: typer brings its own click, unnamed
    for name, command in group.commands.items():
        if command.hidden:
            continue
        if hasattr(command, "commands"):
            yield from _commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


PAGES: Final[Mapping[str, Callable[[], str]]] = {
    "hardening.md": hardening_page,
    "checklist.md": checklist_page,
    "config.md": config_page,
    "cli.md": cli_page,
}

if __name__ == "__main__":
    sys.exit(main())
