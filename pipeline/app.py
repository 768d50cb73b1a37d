"""A page to try a trained CycleGAN on: python pipeline/app.py RUN_OR_CHECKPOINT, then drop an image on it."""

from zorse.commands.app import main

if __name__ == "__main__":
    main()
