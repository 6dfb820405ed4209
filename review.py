"""Prove by a reviewed sample how many merges are right: see README.md."""

from siamdedup.cli.review import main

if __name__ == "__main__":
    main()
