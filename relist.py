from siamdedup.cli.relist import main

if __name__ == "__main__":
    main()
