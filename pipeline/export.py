"""Export a trained generator, to be used without Zorse or without Python: python pipeline/export.py MODEL OUT."""

from zorse.commands.export import main

if __name__ == "__main__":
    main()
