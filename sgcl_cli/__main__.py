"""The entry point ``sgcl``, also as ``python -m sgcl_cli``.

Every worker process imports this module anew, so it loads the command line only where a command is run.
"""


def main() -> None:
    """Run a command and exit with its code."""
    from sgcl_cli.cli.app import main as run

    run()


if __name__ == "__main__":
    main()
