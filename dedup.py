from siamdedup.cli.dedup import main

if __name__ == "__main__":
    main()
