"""What mkdocs builds into pages: the list of every error message, from the code."""

import ast
import re
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "bertjax"
MARKER = "<!-- every message -->"
RAISED = ("UserError", "ValueError")
LONGEST = 40


def on_page_markdown(markdown, **_):
    """Puts the messages in the place of their marker."""
    return markdown.replace(MARKER, every_message()) if MARKER in markdown else markdown


def every_message():
    """A Markdown list a module, of the messages of the errors that it raises; what varies stands in braces."""
    parts = []
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text())
        found = Messages()
        found.visit(tree)
        if found.texts:
            title = (ast.get_docstring(tree) or "").splitlines()[0].rstrip(".:")
            name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
            parts.append(f"**{title}** (`{name}`)\n\n" + "\n".join(f"- `` {text} ``" for text in found.texts))
    return "\n\n".join(parts)


class Messages(ast.NodeVisitor):
    """The strings that are raised, or that say what was expected and found and are raised elsewhere."""

    def __init__(self):
        self.texts = {}

    def visit_Call(self, node):
        is_raised = isinstance(node.func, ast.Name) and node.func.id in RAISED and node.args
        if is_raised and isinstance(node.args[0], ast.Constant | ast.JoinedStr | ast.BinOp):
            self.texts[" ".join(_text(node.args[0]).split())] = None
        else:
            self.generic_visit(node)

    def visit_Expr(self, node):
        if not isinstance(node.value, ast.Constant):  # a docstring
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
    return "{" + (code if len(code) <= LONGEST else "…") + "}"
