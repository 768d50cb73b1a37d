"""For `make docs`: links that lead out of docs/, which GitHub follows, become the names of files in the repository."""

import re

OUTSIDE = re.compile(r"\[([^\]]+)\]\((?:\.\./)+([^)]+)\)")


def on_page_markdown(markdown: str, **_) -> str:
    """mkdocs calls this for each page."""
    return OUTSIDE.sub(lambda link: f"{link[1]} (`{link[2]}`)" if link[1] not in link[2] else f"`{link[2]}`", markdown)
