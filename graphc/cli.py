"""The command line: arguments enter, an exit status leaves. What the commands do is in `commands.py`.

Exit status 2 for a bad request, 1 for a failure at work, 130 when interrupted; one clear message on standard error, and
a traceback with --debug alone.
"""

from __future__ import annotations

import argparse
import codecs
import io
import os
import sys
from collections.abc import Callable, Sequence
from fractions import Fraction

from graphc import __version__, commands
from graphc.ir import GraphcError
from graphc.train import demo

ZOO = "mlp, lenet5, alexnet, vgg16, resnet18, resnet50, mobilenet_v1, unet, vit_s16"
MODEL = f"name of the zoo ({ZOO}), or file.py:Class"
WEIGHTS = f"safetensors file, or `{commands.INITIAL}` for the untrained weights"


class Parser(argparse.ArgumentParser):
    """A parser of one command; options are added in chains: `.option(...)` returns the parser."""

    def option(self, *names: str, **settings) -> Parser:
        self.add_argument(*names, **settings)
        return self


def shape(text: str) -> tuple[int, ...]:
    """A shape such as 1,3,224,224 or 1x3x224x224."""
    try:
        numbers = tuple(int(n) for n in text.replace("x", ",").split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"expected positive numbers such as 1,3,224,224, got {text!r}")
    return numbers


def at_least(least: float, kind: type = int) -> Callable[[str], float]:
    def number(text: str):
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not value >= least:
            what = "whole number" if kind is int else "number"
            raise argparse.ArgumentTypeError(f"expected a {what} from {least}, got {text!r}")
        return value

    return number


def real(text: str) -> float:
    """A number or a fraction, such as 0.5 or 1/255."""
    try:
        return float(Fraction(text.strip()))
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(f"expected a number such as 0.5 or 1/255, got {text!r}") from None


def reals(text: str) -> float | list[float]:
    """One number, or one for each channel: 0.485,0.456,0.406."""
    numbers = [real(part) for part in text.split(",")]
    return numbers[0] if len(numbers) == 1 else numbers


def network(parser: Parser, batch: int | None = None) -> Parser:
    return (
        parser.option("model", metavar="MODEL", help=MODEL)
        .option("--input", type=shape, metavar="SHAPE", help="shape of the input, batch first, e.g. 1,3,224,224")
        .option("--batch", type=at_least(1), metavar="N", default=batch, help=f"images at a time{told(batch)}")
        .option("--classes", type=at_least(1), metavar="N", help="classes of a zoo network (default: its own)")
    )


def told(default: object) -> str:
    return "" if default is None else f" (default: {default})"


def working(parser: Parser) -> Parser:
    parser.option("--threads", type=at_least(1), metavar="N", default=1, help="of the llvm backend; default: 1")
    return backend(parser)


def backend(parser: Parser) -> Parser:
    note = "llvm (the default) for this processor, cuda for an NVIDIA GPU, reference for slow NumPy"
    return parser.option("--backend", choices=("llvm", "cuda", "reference"), default="llvm", help=note)


def rounding(parser: Parser, training: bool = False) -> Parser:
    """--precision; with `training` None, which leaves it to `compile_training`, is the default."""
    default = "fast; exact for a training step on a GPU" if training else "fast"
    note = (
        "exact sums float32 products directly; fast takes Winograd's filtering where that is less work and stores "
        "large linear layers of one image in 24 bits, on a GPU it takes tf32 in the tensor cores; bf16 is for GPUs "
        f"alone (default: {default})"
    )
    kinds = ("fast", "exact", "bf16")
    return parser.option("--precision", choices=kinds, default=None if training else "fast", help=note)


def before_network(parser: Parser) -> Parser:
    note = "with any of these the program takes bytes (uint8)"
    return (
        parser.option("--scale", type=real, metavar="X", help=f"samples times X first, e.g. 1/255; {note}")
        .option("--mean", type=reals, metavar="X[,X...]", help="then minus X, one number or one a channel")
        .option("--std", type=reals, metavar="X[,X...]", help="then divided by X, likewise")
        .option("--labels", metavar="FILE", help="names of the classes, one a line")
    )


def summary_command(p: Parser) -> None:
    network(p).option("--train", action="store_true", help="add the memory of a training step")
    p.option("--markdown", metavar="FILE", help="write it as Markdown (-: standard output)")
    p.option("--html", metavar="FILE", help="write it as a page (-: standard output)")


def train_command(p: Parser) -> None:
    network(p, batch=64)
    p.option(
        "--data",
        required=True,
        metavar="DATA",
        help="`digits`, or FILE.npz: images (float32, or uint8 divided by 255), labels",
    )
    p.option("--out", required=True, metavar="FILE", help="safetensors file to write, after each epoch")
    p.option("--epochs", type=at_least(1), metavar="N", default=10, help="passes over the data (default: 10)")
    p.option("--optimizer", choices=tuple(commands.OPTIMIZERS), default="sgd", help="default: sgd")
    p.option("--lr", type=at_least(0, float), metavar="X", default=0.01, help="learning rate (default: 0.01)")
    p.option("--momentum", type=at_least(0, float), metavar="X", default=0.9, help="of sgd (default: 0.9)")
    p.option("--weight-decay", type=at_least(0, float), metavar="X", default=0.0, help="default: 0")
    p.option("--weights", metavar="FILE", default=commands.INITIAL, help=f"to start from: {WEIGHTS} (the default)")
    p.option("--seed", type=at_least(0), metavar="N", default=0, help="of weights, split and order (default: 0)")
    working(rounding(p, training=True))


def run_command(p: Parser) -> None:
    network(p).option("inputs", nargs="+", metavar="INPUT", help=".npy, .pgm, .ppm, raw samples, or - (standard input)")
    p.option("--weights", required=True, metavar="FILE", help=WEIGHTS)
    p.option("--top", type=at_least(1), metavar="K", default=1, help="the K best classes (default: 1)")
    p.option("--output", metavar="FILE.npy", help="write the network's output")
    working(rounding(before_network(p)))


def build_command(p: Parser) -> None:
    network(p).option("--weights", required=True, metavar="FILE", help=WEIGHTS)
    p.option("-o", "--out", required=True, metavar="FILE", help="executable to write")
    cpus = "portable (the default: any x86-64 with AVX2), native, x86-64-v3, x86-64-v4, aarch64"
    rounding(p).option("--cpu", metavar="NAME", default="portable", help=cpus)
    p.option("--threads", type=at_least(1), metavar="N", default=1, help="its default number of threads (1)")
    before_network(p)


def bench_command(p: Parser) -> None:
    working(network(p)).option("--seconds", type=at_least(0, float), metavar="S", default=2.0, help="default: 2")
    rounding(p).option("--kernels", action="store_true", help="also the time of every kernel")
    p.option("--accuracy", action="store_true", help="also the error of both precisions against float64")


def show_command(p: Parser) -> None:
    network(p).option("--stage", choices=tuple(commands.STAGES), default="graph", help="default: graph")
    p.option("--after", metavar="PASS", help="the graph after this pass; `trace`: before all (default: after all)")
    rounding(backend(p), training=True)
    p.option("--train", action="store_true", help="a training step instead of inference")


def demo_command(p: Parser) -> None:
    p.option("--folder", metavar="FOLDER", default=".", help="where to write its files (default: here)")
    p.option("--threads", type=at_least(1), metavar="N", help="default: all the process may use, up to 4")


# name -> (what it does, its options, the function, two examples that work as they stand)
COMMANDS: dict[str, tuple[str, Callable, Callable, tuple[str, str]]] = {
    "summary": (
        "report layers, parameters, MACs and memory",
        summary_command,
        commands.summary,
        ("graphc summary lenet5", "graphc summary resnet18 --batch 8 --train"),
    ),
    "train": (
        "train a network by compiled steps",
        train_command,
        commands.train,
        (
            "graphc train mlp --data digits --epochs 3 --out mlp.safetensors",
            "graphc train lenet5 --data digits --epochs 2 --lr 0.05 --threads 2 --out lenet5.safetensors",
        ),
    ),
    "run": (
        "run a network on files, in this process",
        run_command,
        commands.run,
        (
            f"head -c 784 /dev/zero | graphc run lenet5 --weights {commands.INITIAL} --top 3 -",
            f"head -c 784 /dev/urandom | graphc run mlp --weights {commands.INITIAL} --scale 1/255 --json -",
        ),
    ),
    "build": (
        "write a network as a standalone executable",
        build_command,
        commands.build,
        (
            f"graphc build mlp --weights {commands.INITIAL} -o mlp && ./mlp --bench 100",
            f"graphc build lenet5 --weights {commands.INITIAL} --scale 1/255 -o lenet5 && ./lenet5 --info",
        ),
    ),
    "bench": (
        "time a network's inference",
        bench_command,
        commands.bench,
        ("graphc bench lenet5", "graphc bench lenet5 --batch 8 --threads 2 --json"),
    ),
    "show": (
        "print a network at one stage of its way",
        show_command,
        commands.show_stage,
        ("graphc show lenet5 --stage schedule", "graphc show mlp --stage graph --after fold_constants"),
    ),
    "demo": (
        "train LeNet-5 on real digits, build it, and let it read some (about a minute)",
        demo_command,
        demo.demo,
        ("graphc demo", "graphc demo --folder demo --threads 2"),
    ),
}
PLAIN = {"·": "-", "…": "~", "×": "x", "━": "-", "╸": "-", "╺": "-", "→": ">", "µ": "u"}
JSON = ("summary", "train", "run", "build", "bench")


def parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    top = argparse.ArgumentParser(
        prog="graphc",
        description="Compile neural networks into programs.",
        epilog=examples(("graphc demo", "graphc summary resnet18")),
        formatter_class=raw,
    )
    top.add_argument("--version", action="version", version=f"graphc {__version__}")
    inside = top.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    for name, (does, options, _, shown) in COMMANDS.items():
        text = does[0].upper() + does[1:] + "."
        p = inside.add_parser(name, help=does, description=text, epilog=examples(shown), formatter_class=raw)
        options(p)
        if name in JSON:
            p.option("--json", action="store_true", help="print one JSON object and nothing else")
        p.option("--debug", action="store_true", help="show the traceback of an error")
    return top


def examples(lines: Sequence[str]) -> str:
    return "\n".join(["examples:", *(f"  {line}" for line in lines)])


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    for stream in filter(None, (sys.stdout, sys.stderr)):  # None where the caller has closed it
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=plainly.__name__)
    top = parser()
    a = top.parse_args(arguments)
    if a.command is None:
        top.print_help(sys.stderr)
        return 2
    try:
        status = COMMANDS[a.command][2](a)
        if sys.stdout:
            sys.stdout.flush()
        return status
    except BrokenPipeError:
        discard_output()  # the reader has gone, as `head` does: nothing more to say
        return 1
    except KeyboardInterrupt:
        print("graphc: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if a.debug:
            raise
        print(message(error), file=sys.stderr)
        try:
            print(end="", flush=True)
        except OSError:
            discard_output()
        return getattr(error, "exit_status", 2) if isinstance(error, GraphcError) else 1


def discard_output() -> None:
    """What standard output could not write goes nowhere; at exit Python would try again, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def plainly(error: UnicodeError) -> tuple[str, int]:
    """How a character is written that the terminal's encoding does not have, such as ASCII's."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(PLAIN.get(c, "?") for c in error.object[error.start : error.end]), error.end


codecs.register_error(plainly.__name__, plainly)


def message(error: Exception) -> str:
    """What the user reads: an error of theirs as it is, one of the system in a line, one of ours as such."""
    if isinstance(error, GraphcError):
        return f"graphc: {error}"
    if isinstance(error, OSError) and error.strerror:
        return f"graphc: {error.filename or 'cannot write'}: {error.strerror}"
    if isinstance(error, MemoryError):
        return "graphc: not enough memory for this"
    return f"graphc: internal error: {type(error).__name__}: {error}\n  --debug shows where; please report it"


if __name__ == "__main__":
    sys.exit(main())
