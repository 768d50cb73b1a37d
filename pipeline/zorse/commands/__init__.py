import zorse.processes  # noqa: F401 - first of all, since it notes who started this process
