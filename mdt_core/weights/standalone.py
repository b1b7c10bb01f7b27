"""A class of ours and all that it needs, in one file that imports nothing of ours: what an exported folder brings.

Definitions are followed from name to name through the modules of this package and copied with their comments, module
after module. No copy is kept in the repository: an export is made of the sources that run.

What is not copied: methods that use `mdt_core.weights`, for diffusers opens an exported folder itself; and statements
that set `__module__`, for the copy is another module. One file may stand apart from another: the pipeline's from the
model's, which diffusers runs again for every model that it opens, so that its classes are never the same twice. What
stands apart may be named in annotations alone, and a base class that both know takes its place there.
"""

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from functools import cached_property
from graphlib import TopologicalSorter
from importlib.util import find_spec
from pathlib import Path

PACKAGE = "mdt_core"
LEFT_OUT = f"{PACKAGE}.weights"
WIDTH = 120

Name = tuple[str, str]  # a module and what is called so in it
Definition = ast.FunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign


class Source:
    """A module of ours, read: what it imports and what it defines."""

    def __init__(self, module: str):
        self.module = module
        self.lines = Path(find_spec(module).origin).read_text("utf-8").splitlines()
        tree = ast.parse("\n".join(self.lines))
        self.docstring: list[ast.stmt] = tree.body[:1] if ast.get_docstring(tree) else []
        self.imports: dict[str, tuple[str, str | None]] = {}  # local name -> module, and name in it
        self.definitions: dict[str, list[Definition]] = defaultdict(list)  # with what is registered with each
        for statement in tree.body:
            self._read(statement)

    def _read(self, statement: ast.stmt) -> None:
        match statement:
            case ast.Import(names):
                self.imports |= {alias.asname or alias.name.partition(".")[0]: (alias.name, None) for alias in names}
            case ast.ImportFrom(module, names):
                self.imports |= {alias.asname or alias.name: (module or "", alias.name) for alias in names}
            case ast.FunctionDef(name="_", decorator_list=[decorator, *_]):  # @operator.register_fake
                self.definitions[next(names_in(decorator)).id].append(statement)
            case ast.FunctionDef(name) | ast.ClassDef(name) | ast.AnnAssign(ast.Name(name)):
                self.definitions[name].append(statement)
            case ast.Assign([target]) if not sets_module(statement):
                for name in names_in(target):
                    self.definitions[name.id].append(statement)
            case ast.Expr(ast.Constant()):  # the docstring
                pass
            case _ if not sets_module(statement):
                raise ValueError(f"{self.module}, line {statement.lineno}: a statement that cannot be exported")

    def resolve(self, name: str) -> tuple[str, str | None] | None:
        """Where a name that is used here is defined; None for builtins and local variables."""
        if name in self.definitions:
            return self.module, name
        return self.imports.get(name)

    def left_out(self, definition: Definition) -> list[ast.stmt]:
        """The methods of a class that stay behind."""
        if not isinstance(definition, ast.ClassDef):
            return []
        return [member for member in definition.body if any(self._is_left_out(name.id) for name in names_in(member))]

    def _is_left_out(self, name: str) -> bool:
        module, _ = self.imports.get(name, ("", None))
        return f"{module}.".startswith(f"{LEFT_OUT}.")

    def used_names(self, definition: Definition) -> Iterator[ast.Name]:
        """Every name in a definition, but for the methods that are left out."""
        behind = {name for member in self.left_out(definition) for name in names_in(member)}
        return (name for name in names_in(definition) if name not in behind)


class Standalone:
    """The code of a class. `apart`: the names that stand in another file -> those that take their place."""

    def __init__(self, module: str, name: str, apart: dict[Name, Name] | None = None):
        self.apart = apart or {}
        self.sources: dict[str, Source] = {}
        self.chosen: dict[str, dict[str, list[Definition]]] = defaultdict(dict)  # module -> name -> definitions
        self.foreign: dict[str, set[tuple[str, str | None]]] = defaultdict(set)  # name -> of which other library
        self.replaced: dict[str, dict[ast.Name, str]] = defaultdict(dict)  # module -> annotations to write anew
        self._choose(module, name)
        self._check_names()

    def _choose(self, module: str, name: str) -> None:
        """A definition, and every one that it uses."""
        source = self._source(module)
        if name in self.chosen[module]:
            return
        self.chosen[module][name] = source.definitions[name]
        for definition in source.definitions[name]:
            annotations = annotated_names(definition)
            for used in source.used_names(definition):
                match source.resolve(used.id):
                    case None:
                        pass
                    case origin if origin in self.apart:
                        if used not in annotations:
                            raise ValueError(
                                f"{module}, line {used.lineno}: {used.id} is in a file of its own in an exported "
                                "folder: it can be named in annotations alone"
                            )
                        self._replace(module, used, self.apart[origin])
                    case (library, original) if library.partition(".")[0] == PACKAGE:
                        if original != used.id:
                            raise ValueError(f"{module}: {library}.{original} must be imported under its own name")
                        self._choose(library, original)
                    case origin:
                        self.foreign[used.id].add(origin)

    def _replace(self, module: str, used: ast.Name, instead: Name) -> None:
        library, dotted = instead
        first, _, _ = dotted.partition(".")
        self.foreign[first].add((library, first))
        self.replaced[module][used] = dotted

    def _source(self, module: str) -> Source:
        if module not in self.sources:
            self.sources[module] = Source(module)
        return self.sources[module]

    def _check_names(self) -> None:
        """In one file a name can mean one thing only."""
        meanings = defaultdict(list)
        for name, origins in self.foreign.items():
            meanings[name] += [library for library, _ in origins]
        for module, names in self.chosen.items():
            for name in names:
                meanings[name].append(module)
        for name, homes in meanings.items():
            if len(homes) > 1:
                raise ValueError(f"{name} is one thing in {homes[0]} and another in {homes[1]}: rename one of them")

    @cached_property
    def modules(self) -> list[str]:
        """Those that lend a definition, each after those that it uses."""
        imports = {module: [other for other, _ in self.sources[module].imports.values()] for module in self.chosen}
        used = {module: [other for other in others if other in imports] for module, others in imports.items()}
        return list(TopologicalSorter(used).static_order())

    def code(self, header: str) -> str:
        """The file: `header`, the imports, then a section for each module."""
        sections = [self._section(module) for module in self.modules]
        return re.sub(rf"\b{PACKAGE}(?:\.\w+)*\.(\w+)", r"\1", "\n\n".join([header, self._imports(), *sections]))

    def _imports(self) -> str:
        """The standard library, then others, sorted as in our sources."""
        names: dict[tuple[bool, bool, str], list[str]] = defaultdict(list)  # third party?, from?, module -> names
        for name, origins in self.foreign.items():
            for module, original in origins:
                library = module.partition(".")[0]
                alias = f" as {name}" if name not in (original, library) else ""
                key = library not in sys.stdlib_module_names, original is not None, module
                names[key].append(f"{original or module}{alias}")
        blocks: dict[bool, list[str]] = {False: [], True: []}
        for third_party, is_from, module in sorted(names, key=lambda key: (*key[:2], key[2].lower())):
            listed = ", ".join(sorted(names[third_party, is_from, module], key=import_order))
            blocks[third_party].append(wrapped(f"from {module} import {listed}") if is_from else f"import {listed}")
        return "\n\n".join("\n".join(block) for block in blocks.values() if block)

    def _section(self, module: str) -> str:
        """What a module lends, under its name and its docstring."""
        source = self.sources[module]
        statements = {statement for definitions in self.chosen[module].values() for statement in definitions}
        text, last = f"# --- {module.rpartition('.')[2]} ".ljust(WIDTH, "-"), None
        for statement in [*source.docstring, *sorted(statements, key=lambda each: each.lineno)]:
            text += "\n" * line_breaks(last, statement) + self._text(source, statement)
            last = statement
        return text + "\n"

    def _text(self, source: Source, statement: Definition) -> str:
        """A definition as it was written, with its comments, the left out methods gone and annotations replaced."""
        lines = list(source.lines)
        for used, instead in sorted(self.replaced[source.module].items(), key=lambda each: -each[0].col_offset):
            line = lines[used.lineno - 1].encode()  # columns count bytes
            line = (line[: used.col_offset] + instead.encode() + line[used.end_col_offset :]).decode()
            lines[used.lineno - 1] = line.replace(f"{instead} | {instead}", instead)
        gone = {
            i
            for member in source.left_out(statement)
            for i in range(first_line(source.lines, member), member.end_lineno + 2)
        }
        kept = [
            lines[i - 1] for i in range(first_line(source.lines, statement), statement.end_lineno + 1) if i not in gone
        ]
        # A heading that stands over nothing now
        return re.sub(r"    # --- [^\n]*\n\n(?=    # --- )", "", "\n".join(kept).rstrip())


def line_breaks(last: ast.stmt | None, statement: ast.stmt) -> int:
    """Between two statements of a section; constants stand together. A docstring follows its section's title."""
    if isinstance(statement, ast.Expr):
        return 1
    if isinstance(statement, ast.Assign | ast.AnnAssign) and not isinstance(last, Definition):
        return 2
    return 1 if isinstance(statement, ast.Assign) and isinstance(last, ast.Assign) else 3


def names_in(node: ast.AST) -> Iterator[ast.Name]:
    """Every name in a piece of source, wherever it stands."""
    return (each for each in ast.walk(node) if isinstance(each, ast.Name))


def annotated_names(node: ast.AST) -> set[ast.Name]:
    """The names within the annotations of a piece of source."""
    annotations = [
        annotation
        for each in ast.walk(node)
        for annotation in (getattr(each, "annotation", None), getattr(each, "returns", None))
        if annotation is not None
    ]
    return {name for annotation in annotations for name in names_in(annotation)}


def sets_module(statement: ast.stmt) -> bool:
    """Whether a statement sets some `__module__`."""
    return any(isinstance(node, ast.Attribute) and node.attr == "__module__" for node in ast.walk(statement))


def first_line(lines: list[str], statement: ast.stmt) -> int:
    """Where a statement begins, with its decorators and the comment right above."""
    decorators = getattr(statement, "decorator_list", [])
    line = min(node.lineno for node in [statement, *decorators])
    while line > 1 and lines[line - 2].lstrip().startswith("#"):
        line -= 1
    return line


def import_order(name: str) -> tuple:
    """Constants, classes, functions, as in our sources."""
    return not name.isupper(), name[0].islower(), name.lower()


def wrapped(line: str) -> str:
    """A long import over several lines."""
    if len(line) <= WIDTH:
        return line
    start, _, names = line.partition("import ")
    return f"{start}import (\n" + "".join(f"    {name},\n" for name in names.split(", ")) + ")"
