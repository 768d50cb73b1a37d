"""What would fail, before an allocation burns: accelerate launch pipeline/doctor.py [the options of train.py]."""

from zorse.commands.doctor import main

if __name__ == "__main__":
    main()
