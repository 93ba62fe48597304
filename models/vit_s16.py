"""Vision transformer (Dosovitskiy et al., 2021), the small one of Touvron et al. (2021) with patches of 16x16, with
timm's names and initialisation."""

from graphc import nn
from graphc.nn.functional import concat, scaled_dot_product_attention

SMALL = nn.init.trunc_normal(std=0.02)


class PatchEmbed(nn.Module):
    """Images to a sequence of patches: [N, patches, width]."""

    def __init__(self, in_channels: int, width: int, patch: int):
        super().__init__()
        self.proj = nn.Conv2d(in_channels, width, patch, stride=patch)

    def forward(self, x):
        return self.proj(x).flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Self-attention over a sequence [N, L, width]."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x):
        n, length, width = x.shape
        q, k, v = self.qkv(x).reshape(n, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        return self.proj(scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, length, width))


class Mlp(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x):
        return self.fc2(self.act(self.fc1(x)))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))"""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width, 4 * width)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """Images Nx3x224x224 to scores Nx1000, from a class token beside the patches. 22,050,664 parameters."""

    def __init__(
        self,
        classes: int = 1000,
        in_channels: int = 3,
        size: int = 224,
        patch: int = 16,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
    ):
        super().__init__()
        self.cls_token = nn.Parameter((1, 1, width), nn.init.normal(std=1e-6))
        self.pos_embed = nn.Parameter((1, (size // patch) ** 2 + 1, width), SMALL)
        self.patch_embed = PatchEmbed(in_channels, width, patch)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, classes)
        self.apply(initialise)

    def forward(self, x):
        x = self.patch_embed(x)
        token = self.cls_token.expand(x.shape[0], 1, x.shape[2])
        x = self.blocks(concat([token, x], 1) + self.pos_embed)
        return self.head(self.norm(x)[:, 0])


def initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        module.weight.reset(SMALL)
        module.bias.reset(nn.init.zeros())


def vit_s16(classes: int = 1000, in_channels: int = 3) -> ViT:
    return ViT(classes, in_channels)
