"""`python -m sct.report runs=FOLDER`: one table of any set of evaluated runs, as markdown, csv and LaTeX."""

from sct.config import command
from sct.config.help import Page


def main() -> None:
    command.run("sct.tasks.report:report", config_name="report", page=Page(__doc__))


if __name__ == "__main__":
    main()
