"""`frozen` against `dataclass(frozen=True)`: the same constructor, equality, hash, text and errors."""

import copy
import inspect
import pickle
from dataclasses import FrozenInstanceError, dataclass, field, fields, is_dataclass, replace
from functools import cached_property

import pytest

from graphc.ir.frozen import frozen


@frozen
class Point:
    x: int
    y: int = 2
    tags: list = field(default_factory=list, compare=False)
    note: str = field(default="", repr=False)

    @cached_property
    def sum(self) -> int:
        return self.x + self.y


@dataclass(frozen=True)
class Reference:
    x: int
    y: int = 2
    tags: list = field(default_factory=list, compare=False)
    note: str = field(default="", repr=False)


@frozen
class Deeper(Point):
    """A point with a depth that is not negative."""

    z: int = 0

    def __post_init__(self):
        object.__setattr__(self, "z", abs(self.z))


@frozen(eq=False)
class Single:
    x: int


@frozen
class Empty:
    pass


@pytest.mark.parametrize("values, named", [((1,), {}), ((1, 3), {"note": "n"}), ((), {"x": 4, "tags": [5]})])
def test_constructors_agree(values, named):
    ours, theirs = Point(*values, **named), Reference(*values, **named)
    assert repr(ours) == repr(theirs).replace("Reference", "Point")
    assert {f.name: getattr(ours, f.name) for f in fields(ours)} == vars(theirs)


@pytest.mark.parametrize("values, named", [((), {}), ((1, 2, [], "", 5), {}), ((1,), {"x": 2}), ((1,), {"w": 2})])
def test_wrong_arguments_are_told_alike(values, named):
    told = []
    for made in (Point, Reference):
        with pytest.raises(TypeError) as error:
            made(*values, **named)
        told.append(str(error.value).replace("Reference", "Point"))
    assert told[0] == told[1]


def test_equal_by_class_and_by_what_is_compared():
    assert Point(1, tags=[1]) == Point(1, tags=[2]) and hash(Point(1, tags=[1])) == hash(Point(1, tags=[2]))
    assert Point(1) != Point(2) and Point(1) != Deeper(1) and Point(1) != (1, 2, "")
    assert Empty() == Empty() and len({Empty(), Empty()}) == 1
    assert Single(1) != Single(1) and len({Single(1), Single(1)}) == 2


def test_each_has_lists_of_its_own():
    assert Point(1).tags is not Point(1).tags


def test_inherits_fields_and_runs_what_follows():
    deep = Deeper(1, z=-3)
    assert [f.name for f in fields(Deeper)] == ["x", "y", "tags", "note", "z"]
    assert (deep.z, deep.sum, deep.sum) == (3, 3, 3)
    assert type(Point(1)) is Point and Deeper.__doc__.startswith("A point")


@pytest.mark.parametrize("change", [lambda p: setattr(p, "x", 3), lambda p: delattr(p, "x"),
                                    lambda p: setattr(p, "new", 3)])  # fmt: skip
def test_nothing_can_be_changed(change):
    point = Point(1)
    with pytest.raises(FrozenInstanceError):
        change(point)
    assert point == Point(1)


def test_is_a_dataclass_to_others():
    point = Point(1, 5)
    assert is_dataclass(Point) and Point.__match_args__ == ("x", "y", "tags", "note")
    assert replace(point, y=6) == Point(1, 6) and point.y == 5
    assert copy.deepcopy(point) == point == pickle.loads(pickle.dumps(point))


def test_the_constructor_shows_its_parameters():
    assert list(inspect.signature(Point).parameters) == ["x", "y", "tags", "note"]


def test_text_of_what_holds_itself_ends():
    point = Point(1)
    point.tags.append(point)
    assert repr(point) == "Point(x=1, y=2, tags=[...])"
