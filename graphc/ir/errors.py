"""Errors for users: first line where and what, second expected and got, third how to mend.

Those that Python has a class for are of that class as well, so `except TypeError` and `hasattr` work as anywhere.
"""

from __future__ import annotations


class GraphcError(Exception):
    """A mistake in the user's request, told in the user's terms. The command line prints it without a traceback."""


class ShapeError(GraphcError):
    """Operand shapes or dtypes that an op's rule refuses."""


class GraphcTypeError(GraphcError, TypeError):
    """Something of the wrong kind: a class for an object, an array of another dtype, too few arguments."""


class GraphcValueError(GraphcError, ValueError):
    """Something of the right kind and the wrong value, such as an array of another shape."""


class GraphcAttributeError(GraphcError, AttributeError):
    """A name that an object does not have."""
