"""`python -m petid_search …` is `petid …`."""

from petid_search.cli import main

if __name__ == "__main__":
    main()
