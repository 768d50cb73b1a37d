"""The two directions of a CycleGAN, in every spelling that files, options and people use."""

from enum import StrEnum


class Direction(StrEnum):
    """Which domain a generator translates from and to. The value is the spelling in files and in networks' names."""

    A_TO_B = "a_to_b"
    B_TO_A = "b_to_a"

    @classmethod
    def of(cls, option: str) -> "Direction":
        """The direction of a command-line option, "a2b" or "b2a"."""
        return cls(option.replace("2", "_to_"))

    @property
    def source(self) -> str:
        """The domain that it translates from, "a" or "b"."""
        return self.value[0]

    @property
    def target(self) -> str:
        """The domain that it translates to."""
        return self.value[-1]

    @property
    def reverse(self) -> "Direction":
        return Direction(f"{self.target}_to_{self.source}")

    @property
    def option(self) -> str:
        """The spelling on the command line and in Python: "a2b"."""
        return f"{self.source}2{self.target}"

    @property
    def title(self) -> str:
        """The spelling for people: "a to b"."""
        return f"{self.source} to {self.target}"
