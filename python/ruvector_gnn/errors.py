"""The exceptions that the package raises; each is also the built-in that a caller would expect."""


class RuvectorError(Exception):
    """Base class of every error of this package but the operating system's (`OSError` and its family)."""


class ShapeError(RuvectorError, ValueError):
    """An array has the wrong shape or an unusable type, or holds NaN or infinity."""


class ConfigError(RuvectorError, ValueError):
    """A parameter is outside its domain, or a call does not fit the object's state."""


class NotFoundError(RuvectorError, KeyError):
    """An unknown id or name."""

    def __str__(self) -> str:
        """Give the message as it is: `KeyError` would quote it."""
        return Exception.__str__(self)


class RowError(RuvectorError, IndexError):
    """A row or node number that is out of range or no longer lives."""


class FormatError(RuvectorError):
    """A damaged, truncated or foreign file."""
