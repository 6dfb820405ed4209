"""Look into a catalogue (`doctor`), or fetch its pictures (`fetch`): see README.md."""

from siamdedup.cli.catalog import main

if __name__ == "__main__":
    main()
