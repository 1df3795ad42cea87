"""`python -m assistant.cli`: the command line without the page."""

from assistant.cli import main

if __name__ == "__main__":
    main()
