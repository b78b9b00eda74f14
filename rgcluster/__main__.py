"""`python -m rgcluster`: the `rgcluster` command."""

from rgcluster.cli import main

if __name__ == "__main__":
    main()
