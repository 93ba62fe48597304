"""MobileNet (Howard et al., 2017): every convolution but the first is a depthwise and a pointwise one."""

from graphc import nn

# Output channels and stride of each depthwise separable block.
BLOCKS = (
    *((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)),
    *((512, 1),) * 5,
    *((1024, 2), (1024, 1)),
)


def separable(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """A 3x3 convolution within each channel, then a 1x1 convolution across them, each normalised and rectified."""
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, stride=stride, padding=1, groups=inputs, bias=False),
        nn.BatchNorm2d(inputs),
        nn.ReLU6(),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(),
    )


class MobileNetV1(nn.Module):
    """Images Nx3x224x224 to scores Nx1000. `width` scales the channels. 4,231,976 parameters."""

    def __init__(self, classes: int = 1000, in_channels: int = 3, width: float = 1.0):
        super().__init__()
        channels = int(32 * width)
        stem = nn.Conv2d(in_channels, channels, 3, stride=2, padding=1, bias=False)
        self.features = nn.Sequential(nn.Sequential(stem, nn.BatchNorm2d(channels), nn.ReLU6()))
        for full, stride in BLOCKS:
            outputs = int(full * width)
            self.features.append(separable(channels, outputs, stride))
            channels = outputs
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, classes)
        self.apply(initialise)

    def forward(self, x):
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


def initialise(module: nn.Module) -> None:
    """He's by the fan in: the fan out of a depthwise weight, [C, 1, 3, 3], counts channels it never reaches."""
    if isinstance(module, nn.Conv2d):
        module.weight.reset(nn.init.kaiming_normal(nonlinearity="relu"))


def mobilenet_v1(classes: int = 1000, in_channels: int = 3) -> MobileNetV1:
    return MobileNetV1(classes, in_channels)
