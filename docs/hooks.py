"""An mkdocs hook: lists every error message of the package on the troubleshooting page."""

import ast
import re
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "bertjax"
MARKER = "<!-- every message -->"
RAISED = ("UserError", "ValueError")
MAX_CODE = 40
"""Longer expressions are shown as {…}."""


def on_page_markdown(markdown, **_):
    """Replaces the marker by the messages."""
    return markdown.replace(MARKER, every_message()) if MARKER in markdown else markdown


def every_message():
    """A Markdown list of error messages for each module, sorted by module name; values are shown as {code}."""
    parts = []
    for name, path in sorted((_module(path), path) for path in PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text())
        messages = Messages()
        messages.visit(tree)
        if messages.texts:
            title = (ast.get_docstring(tree) or name).splitlines()[0].rstrip(".:")
            parts.append(f"**{title}** (`{name}`)\n\n" + "\n".join(f"- `` {text} ``" for text in messages.texts))
    return "\n\n".join(parts)


def _module(path):
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


class Messages(ast.NodeVisitor):
    """Collects the strings passed to an exception, and all others that say what was expected or found."""

    def __init__(self):
        self.texts = {}

    def visit_Call(self, node):
        is_raised = isinstance(node.func, ast.Name) and node.func.id in RAISED and node.args
        if is_raised and isinstance(node.args[0], ast.Constant | ast.JoinedStr | ast.BinOp):
            self.texts[" ".join(_text(node.args[0]).split())] = None
        else:
            self.generic_visit(node)

    def visit_Expr(self, node):
        if not isinstance(node.value, ast.Constant):  # not a docstring
            self.generic_visit(node)

    def visit_JoinedStr(self, node):
        text = " ".join(_text(node).split())
        if re.search(r"\bexpected\b|\bfound\b", re.sub(r"\{.*?\}", "", text)):
            self.texts[text] = None

    visit_Constant = visit_JoinedStr


def _text(node):
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_text, node.values))
    if isinstance(node, ast.BinOp):
        return _text(node.left) + _text(node.right)
    code = ast.unparse(node.value if isinstance(node, ast.FormattedValue) else node)
    return "{" + (code if len(code) <= MAX_CODE else "…") + "}"
