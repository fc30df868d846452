"""Jobs on the terminal, a row each; in a pipe or a file, a line each."""

import sys
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

STYLES = {"finished": "green", "running": "cyan", "failed": "bold red", "interrupted": "yellow"}
# In a pipe or a file a row is a line.
WIDTH_OF_A_FILE = 240


def plain_console() -> Console:
    """Return a console that prints text literally: names and error messages may look like rich's markup."""
    # In a notebook, rich would make an output of every line, or take it for a terminal on which bars can move.
    terminal = False if "ipykernel" in sys.modules else None
    return Console(highlight=False, markup=False, emoji=False, force_jupyter=False, force_terminal=terminal)


def job_console() -> Console:
    """Return a console that keeps rows whole in a pipe or a file."""
    console = plain_console()
    if not console.is_terminal:
        console.width = max(console.width, WIDTH_OF_A_FILE)
    return console


def empty_job_table(titles: Iterable[str]) -> Table:
    """Return a table for a job, its status, and numbers with these titles."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("job", overflow="fold")
    table.add_column("status")
    for title in titles:
        table.add_column(title, justify="right")
    return table


def add_job(table: Table, name: str, status: str, numbers: Iterable[str]) -> None:
    """Add a job's row."""
    table.add_row(Text(name), Text(status, style=STYLES.get(status, "")), *numbers)
