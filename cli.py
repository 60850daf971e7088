"""Run petid from a checkout, without installing it: `python cli.py …` is `petid …`."""

from petid_search.cli import main

if __name__ == "__main__":
    main()
