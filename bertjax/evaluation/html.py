"""A self-contained HTML page."""

import html


def html_page(title: str, style: str, body: str) -> str:
    """The HTML of a page in English.

    Args:
      title: plain text.
      style: CSS.
      body: HTML with its text already escaped.
    """
    head = (
        f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{html.escape(title)}</title>'
    )
    head += f"<style>{style}</style>"
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>{body}</body></html>\n'
