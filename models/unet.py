"""U-Net (Ronneberger et al., 2015) with padded convolutions, so that the scores are as large as the image."""

from graphc import nn
from graphc.nn.functional import concat


def double(inputs: int, outputs: int) -> list[nn.Module]:
    """Two 3x3 convolutions that keep the extents."""
    first, second = nn.Conv2d(inputs, outputs, 3, padding=1), nn.Conv2d(outputs, outputs, 3, padding=1)
    return [first, nn.ReLU(), second, nn.ReLU()]


class Up(nn.Module):
    """An image at half the size, grown to the size of the one seen on the way down and joined with it."""

    def __init__(self, width: int):
        super().__init__()
        self.grow = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.conv = nn.Sequential(*double(2 * width, width))

    def forward(self, x, seen):
        return self.conv(concat([seen, self.grow(x)], 1))


class UNet(nn.Module):
    """Images NxCxHxW to scores Nx2xHxW of each pixel; H and W are multiples of 2**depth. `width` channels at full
    size, twice as many at each of the `depth` halvings. 7,759,554 parameters."""

    def __init__(self, classes: int = 2, in_channels: int = 1, width: int = 32, depth: int = 4):
        super().__init__()
        widths = [width << level for level in range(depth)]
        self.down = nn.ModuleList([nn.Sequential(*double(in_channels, width))])
        self.down.extend(nn.Sequential(nn.MaxPool2d(2), *double(w, 2 * w)) for w in widths)
        self.up = nn.ModuleList(Up(w) for w in reversed(widths))
        self.head = nn.Conv2d(width, classes, 1)
        self.apply(initialise)

    def forward(self, x):
        seen = []
        for block in self.down:
            x = block(x)
            seen.append(x)
        seen.pop()
        for block in self.up:
            x = block(x, seen.pop())
        return self.head(x)


def initialise(module: nn.Module) -> None:
    """He's, as the paper has it."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        module.weight.reset(nn.init.kaiming_normal(nonlinearity="relu"))
        module.bias.reset(nn.init.zeros())


def unet(classes: int = 2, in_channels: int = 1) -> UNet:
    return UNet(classes, in_channels)
