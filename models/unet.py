"""U-Net (Ronneberger et al., 2015) with padded convolutions, so that the scores are as large as the image."""

from graphc import nn
from graphc.nn.functional import concat


def double(inputs: int, outputs: int) -> nn.Sequential:
    """Two 3x3 convolutions that keep the extents."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1),
        nn.ReLU(),
    )


class UNet(nn.Module):
    """Images NxCxHxW to scores Nx2xHxW of each pixel; H and W are multiples of 2**depth. `width` channels at full
    size, twice as many at each of the `depth` halvings. 7,759,554 parameters."""

    def __init__(self, classes: int = 2, in_channels: int = 1, width: int = 32, depth: int = 4):
        super().__init__()
        widths = [width << level for level in range(depth + 1)]
        self.down = nn.ModuleList(double(i, o) for i, o in zip([in_channels, *widths], widths[:-1], strict=False))
        self.pool = nn.MaxPool2d(2)
        self.bottom = double(widths[-2], widths[-1])
        self.grow = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, stride=2) for w in reversed(widths[:-1]))
        self.up = nn.ModuleList(double(2 * w, w) for w in reversed(widths[:-1]))
        self.head = nn.Conv2d(width, classes, 1)
        self.apply(initialise)

    def forward(self, x):
        seen = []
        for block in self.down:
            seen.append(block(x))
            x = self.pool(seen[-1])
        x = self.bottom(x)
        for grow, block in zip(self.grow, self.up, strict=True):
            x = block(concat([seen.pop(), grow(x)], 1))
        return self.head(x)


def initialise(module: nn.Module) -> None:
    """He's, as the paper has it."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        module.weight.reset(nn.init.kaiming_normal(nonlinearity="relu"))
        module.bias.reset(nn.init.zeros())


def unet(classes: int = 2, in_channels: int = 1) -> UNet:
    return UNet(classes, in_channels)
