"""Residual networks (He et al., 2016) with torchvision's names and initialisation; the stride of a bottleneck is on its
3x3 convolution (version 1.5)."""

from graphc import nn


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """A convolution without bias that keeps the extents but for the stride."""
    return nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)


def shortcut(inputs: int, outputs: int, stride: int) -> nn.Module | None:
    """What brings the input to the block's shape, where it differs."""
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """relu(x + two 3x3 convolutions of x)"""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int = 1):
        super().__init__()
        self.conv1 = conv(inputs, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.conv2 = conv(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = shortcut(inputs, width, stride)

    def forward(self, x):
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """relu(x + a 1x1, a 3x3 and a 1x1 convolution of x), the last four times as wide"""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int = 1):
        super().__init__()
        outputs = width * self.expansion
        self.conv1 = conv(inputs, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = conv(width, outputs, 1)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.downsample = shortcut(inputs, outputs, stride)

    def forward(self, x):
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """Images Nx3x224x224 to scores Nx1000, from blocks of one kind, `depths[i]` of them in stage i."""

    def __init__(self, name: str, block: type, depths: tuple[int, ...], classes: int = 1000, in_channels: int = 3):
        super().__init__()
        self.name = name
        self.conv1 = conv(in_channels, 64, 7, stride=2)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        channels = 64
        for stage, depth in enumerate(depths):
            blocks = nn.Sequential()
            for i in range(depth):
                blocks.append(block(channels, 64 << stage, stride=2 if stage and not i else 1))
                channels = (64 << stage) * block.expansion
            self.add_module(f"layer{stage + 1}", blocks)
        self.stages = len(depths)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, classes)
        self.apply(initialise)

    def forward(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in range(self.stages):
            x = getattr(self, f"layer{stage + 1}")(x)
        return self.fc(self.avgpool(x).flatten(1))


def initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        module.weight.reset(nn.init.kaiming_normal(mode="fan_out", nonlinearity="relu"))


def resnet18(classes: int = 1000, in_channels: int = 3) -> ResNet:
    """11,689,512 parameters."""
    return ResNet("resnet18", BasicBlock, (2, 2, 2, 2), classes, in_channels)


def resnet50(classes: int = 1000, in_channels: int = 3) -> ResNet:
    """25,557,032 parameters."""
    return ResNet("resnet50", Bottleneck, (3, 4, 6, 3), classes, in_channels)
