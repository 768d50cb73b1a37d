"""Translate images with a trained CycleGAN: python pipeline/translate.py RUN_OR_CHECKPOINT IN OUT --direction a2b."""

from zorse.commands.translate import main

if __name__ == "__main__":
    main()
