"""Where the documentation explains what a message says."""


def see(anchor: str, page: str = "guides/troubleshooting") -> str:
    """The end of a message: the heading of a page of docs/ that explains it."""
    return f" See docs/{page}.md#{anchor}."
