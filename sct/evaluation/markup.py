"""Names in tables are texts, neither markup nor formulas: those of classes, cases and runs may come from a stranger."""

import re

# a cell's border, an element of HTML, and what makes a link or a picture of a text in brackets
_MARKUP = re.compile(r"\||<(?=[A-Za-z/!?])|(?<=\])\(")
# how a spreadsheet knows a formula, and the sign that makes a text of it
_FORMULA, _TEXT = "=+-@\t\r", "'"


def plain_markdown(text: str) -> str:
    """A text in a line of markdown that is shown as it is."""
    return _MARKUP.sub(r"\\\g<0>", " ".join(text.splitlines()))


def plain_cell(text: str) -> str:
    """A text in a cell of a csv file, which no spreadsheet computes: before a possible formula stands an apostrophe."""
    return f"{_TEXT}{text}" if text.startswith((*_FORMULA, _TEXT)) else text


def text_of_cell(cell: str) -> str:
    """The text that `plain_cell` wrote."""
    return cell.removeprefix(_TEXT) if cell.startswith(tuple(f"{_TEXT}{sign}" for sign in (*_FORMULA, _TEXT))) else cell
