"""`python -m sct.report runs=FOLDER`: one table of any set of evaluated runs, as markdown, csv and LaTeX."""

from sct import cli


def main() -> None:
    cli.run("sct.tasks.report:report", config_name="report")


if __name__ == "__main__":
    main()
