"""Pages of both packages from their docstrings, as Markdown. Nothing is imported: nothing need be there."""

import ast
import re
from pathlib import Path

PACKAGES = ("tianji_helpers", "tianji_toolbox")
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def write(root: Path, target: Path) -> None:
    """Write a page for each module below ``root`` into ``target``; that of a package lists its own."""
    target.mkdir(parents=True)
    for package in PACKAGES:
        files = {name_of(file, root): file for file in sorted((root / package).rglob("*.py"))}
        for name, file in files.items():
            inside = [other for other in files if other.rpartition(".")[0] == name]
            text = page(name, ast.parse(file.read_text(encoding="utf-8")), inside)
            (target / f"{name}.md").write_text(text, encoding="utf-8")


def name_of(file: Path, root: Path) -> str:
    return ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def page(name: str, module: ast.Module, inside: list[str]) -> str:
    parts = [f"# {escape(name)}", docstring(module)]
    if inside:
        parts.append("\n".join(["```{toctree}", *inside, "```"]))
    for node in public(module):
        parts += [f"## {escape(node.name)}", signature(node), docstring(node)]
        if isinstance(node, ast.ClassDef):
            for method in public(node):
                parts += [f"### {escape(f'{node.name}.{method.name}')}", signature(method), docstring(method)]
    return "\n\n".join(filter(None, parts)) + "\n"


def public(tree: ast.Module | ast.ClassDef) -> list[ast.AST]:
    return [node for node in tree.body if isinstance(node, DEFINITIONS) and not node.name.startswith("_")]


def signature(node: ast.AST) -> str:
    """Return a definition without what it does: of a function its head, of a class its fields, too."""
    kept = []
    if isinstance(node, ast.ClassDef):
        kept = [part for part in node.body if isinstance(part, ast.AnnAssign)]
        kept += [part for part in node.body if getattr(part, "name", "") == "__init__"]
        kept = [bare(part) if isinstance(part, DEFINITIONS) else part for part in kept]
    return f"```python\n{ast.unparse(bare(node, kept)).removesuffix('    ...').rstrip()}\n```"


def bare(node: ast.AST, body: list[ast.stmt] | None = None) -> ast.AST:
    fields = dict(ast.iter_fields(node)) | {"body": body or [ast.Expr(ast.Constant(...))]}
    return ast.copy_location(type(node)(**fields), node)


def docstring(node: ast.AST) -> str:
    """Return a docstring as Markdown; what is no code must not become markup by chance."""
    parts = re.split(r"\n\s*\n", ast.get_docstring(node) or "")
    return "\n\n".join(map(paragraph, filter(None, parts)))


def paragraph(text: str) -> str:
    if text.lstrip().startswith(">>> "):
        return f"```pycon\n{text}\n```"
    if all(line.startswith("    ") for line in text.splitlines()):
        return text
    return "".join(
        part if part.startswith("`") else escape(part) for part in re.split(r"(``.+?``)", text, flags=re.S)
    )


def escape(text: str) -> str:
    return re.sub(r"([<$_\[\]{}`])", r"\\\1", text)
