"""One HTML page of a run, that needs no network: python pipeline/report.py RUN. The trainer renews it, too."""

from zorse.commands.report import main

if __name__ == "__main__":
    main()
