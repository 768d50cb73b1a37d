"""One HTML page of a run, that needs no network: python pipeline/report.py RUN. The trainer renews it, too."""

try:
    from zorse.commands.report import main
except ModuleNotFoundError as missing:
    raise SystemExit(f"error: {missing.name} is not installed; run make install, or pip install -e . here") from None

if __name__ == "__main__":
    main()
