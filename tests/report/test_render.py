"""The report on paper: what fits, what is aligned, what is escaped."""

import re
import xml.etree.ElementTree as ET

import pytest

from graphc import nn
from graphc.models import lenet5
from graphc.report import TrainingBytes
from graphc.report.text import byte_column, scaled


class Deep(nn.Module):
    """Two blocks deep inside, of unlike sizes."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU())
        self.body = nn.Sequential(nn.Sequential(nn.Conv2d(64, 128, 3, padding=1, groups=2), nn.ReLU()))
        self.head = nn.Linear(128, 10)

    def forward(self, x):
        return self.head(self.body(self.stem(x)).mean((2, 3)))


@pytest.fixture
def deep(report):
    return report(Deep(), (1, 3, 64, 64), name="deep", training=TrainingBytes(1 << 20, 1 << 20, 1 << 22, 1 << 23))


@pytest.mark.parametrize("width", [50, 60, 80, 100, 120, 200])
def test_fits_and_keeps_the_footer(deep, width):
    lines = deep.terminal(width).splitlines()
    assert max(map(len, lines)) <= width
    text = " ".join(line.strip() for line in lines)
    assert f"{deep.totals.params:,} parameters" in text
    assert f"{deep.totals.macs:,} MACs" in text
    assert "optimizer state 1.00 MiB" in text
    assert "One MAC is one multiply-add" in text


def test_lenet5_at_120_columns(report):
    s = report(lenet5(), (1, 1, 28, 28), name="lenet5", peak_activation_bytes=78_400)
    lines = s.terminal(120).splitlines()
    assert lines[0].startswith("lenet5 ") and lines[0].endswith(" input 1x1x28x28 float32")
    assert lines[1].split() == [
        "layer",
        "kernel/stride/pad",
        "output",
        "weights",
        "params",
        "MACs",
        "FLOPs",
        "activations",
        "field",
    ]
    assert lines[2].split() == ["features", "Sequential"]
    first = "0 Conv2d 5x5 / 1 / 2 20x28x28 20x1x5x5 + 20 520 392,000 799,680 61.2 KiB 5x5"
    assert " ".join(lines[3].split()) == first
    assert lines[3].startswith(" 0 Conv2d")
    figures = "1,256,080 parameters (4.79 MiB), all trainable · 6,522,000 MACs · 13.1 MFLOP"
    assert f"{figures} · peak activations 76.6 KiB (as planned)" in lines


def test_80_columns_drop_columns_not_rows(report):
    s = report(lenet5(), (1, 1, 28, 28))
    wide, narrow = s.terminal(120).splitlines(), s.terminal(80).splitlines()
    assert {"layer", "output", "params", "MACs"} <= set(narrow[1].split()) < set(wide[1].split())
    assert sum("Conv2d" in line for line in narrow) == 2


def test_figures_are_right_aligned(report):
    lines = report(lenet5(), (1, 1, 28, 28)).terminal(120).splitlines()
    ends = {m.end() for line in lines if "FLOP " not in line for m in re.finditer(r"[\d,.<]+ (KiB|MiB|B)\b", line)}
    assert ends == {lines[1].index("activations") + len("activations")}


def test_containers_are_titles_once(deep):
    lines = [line.rstrip() for line in deep.terminal(120).splitlines()]
    assert lines.count("body Sequential") == 1
    assert " 0 Sequential" in lines
    assert any(line.startswith("  0 Conv2d") and "groups 2" in line for line in lines)


def test_plain_text_has_no_escapes_and_color_has(deep):
    assert "\x1b" not in str(deep)
    colored = deep.terminal(100, color=True)
    assert "\x1b[1m" in colored
    plain = re.sub(r"\x1b\[[\d;]*m", "", colored)
    assert [line.rstrip() for line in plain.splitlines()] == deep.terminal(100).splitlines()


def test_markdown_is_one_table(deep):
    table = [line for line in deep.markdown().splitlines() if line.startswith("|")]
    assert len(table) == len(deep.layers) + 2
    assert {line.count("|") for line in table} == {11}


def test_html_is_well_formed_and_escaped(report):
    page = report(Deep(), (1, 3, 64, 64), name="a<b>&c").html()
    body = ET.fromstring(re.sub(r"<!doctype html>|<meta[^>]*>", "", page))
    assert body.find("body/h1").text == "a<b>&c"
    assert len(body.findall("body/table/tbody/tr")) == 8
    assert "http" not in page  # nothing is fetched


@pytest.mark.parametrize(
    ("sizes", "texts"),
    [
        ([40, 62_720], ["<0.1 KiB", "61.2 KiB"]),
        ([40, 4_000], ["40 B", "4,000 B"]),
        ([0, 3_211_264], ["0.0 KiB", "3,136.0 KiB"]),
        ([1 << 20, 1 << 30], ["1.0 MiB", "1,024.0 MiB"]),
        ([], []),
    ],
)
def test_one_unit_a_column(sizes, texts):
    assert byte_column(sizes) == texts


@pytest.mark.parametrize(
    ("n", "text"),
    [(999, "999 B"), (1023, "1,023 B"), (5_024_320, "4.79 MiB"), (78_400, "76.6 KiB"), (1 << 40, "1.00 TiB")],
)
def test_three_digits_and_a_unit(n, text):
    assert scaled(n, 1024, ("B", "KiB", "MiB", "GiB", "TiB")) == text
