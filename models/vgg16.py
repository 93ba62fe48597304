"""VGG-16 (Simonyan and Zisserman, 2015, configuration D), with torchvision's names and initialisation."""

from graphc import nn

# Output channels of the 3x3 convolutions of each stage; a 2x2 pool ends a stage.
STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG16(nn.Module):
    """Images Nx3x224x224 to scores Nx1000. 138,357,544 parameters."""

    def __init__(self, classes: int = 1000, in_channels: int = 3, dropout: float = 0.5):
        super().__init__()
        self.features = nn.Sequential()
        channels = in_channels
        for stage in STAGES:
            for width in stage:
                self.features.extend([nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()])
                channels = width
            self.features.append(nn.MaxPool2d(2))
        self.avgpool = nn.AdaptiveAvgPool2d(7)
        self.classifier = nn.Sequential(
            nn.Linear(512 * 7 * 7, 4096),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(4096, classes),
        )
        self.apply(initialise)

    def forward(self, x):
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


def initialise(module: nn.Module) -> None:
    """He's for convolutions, so that 13 layers without normalisation keep their scale; small normals for the rest."""
    if isinstance(module, nn.Conv2d):
        module.weight.reset(nn.init.kaiming_normal(mode="fan_out", nonlinearity="relu"))
        module.bias.reset(nn.init.zeros())
    elif isinstance(module, nn.Linear):
        module.weight.reset(nn.init.normal(0.0, 0.01))
        module.bias.reset(nn.init.zeros())


def vgg16(classes: int = 1000, in_channels: int = 3) -> VGG16:
    return VGG16(classes, in_channels)
