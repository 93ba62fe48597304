"""LeNet-5 (LeCun et al., 1998) in its 20/50 version: 28x28 images, two convolutions with pools, two linear layers."""

from graphc import nn


class LeNet5(nn.Module):
    """Images Nx1x28x28 to scores Nx10. 1,256,080 parameters, 6,522,000 MACs an image."""

    def __init__(self, classes: int = 10, in_channels: int = 1):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 20, 5, padding=2),
            nn.MaxPool2d(2),
            nn.Conv2d(20, 50, 5, padding=2),
            nn.MaxPool2d(2),
            nn.Flatten(),
        )
        self.classifier = nn.Sequential(nn.Linear(50 * 7 * 7, 500), nn.ReLU(), nn.Linear(500, classes))

    def forward(self, x):
        return self.classifier(self.features(x))


def lenet5(classes: int = 10, in_channels: int = 1) -> LeNet5:
    return LeNet5(classes, in_channels)
