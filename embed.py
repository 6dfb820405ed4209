"""Run the image pass alone: fingerprints and embeddings of a catalogue's pictures, as shards and as Parquet."""

from siamdedup.cli.embed import main

if __name__ == "__main__":
    main()
