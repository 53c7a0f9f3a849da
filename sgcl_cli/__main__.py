"""``python -m sgcl_cli`` is ``sgcl``."""

from sgcl_cli.cli.app import main

if __name__ == "__main__":
    main()
