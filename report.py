"""Training runs as a Markdown report and one page for a paper's appendix: see README.md."""

from siamdedup.cli.report import main

if __name__ == "__main__":
    main()
