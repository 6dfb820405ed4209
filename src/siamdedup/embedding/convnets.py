"""Small networks of papers that timm does not have, registered there, so that `backbone.name` may name them.

Their inputs are line drawings, dark on white: three equal channels come in, and the first is all that is read.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.models import register_model
from torch import Tensor, nn
from torch.nn.functional import max_pool2d


class Koch2015(nn.Module):
    """The convolutional twin of Koch, Zemel and Salakhutdinov 2015, figure 4, for 105 x 105 pictures.

    (N, 3, 105, 105) -> (N, 9216). The fully connected sigmoid layer of 4,096 units is the head's
    (`head=sigmoid`), and so is the weighted L1 distance (`head.pair`).

    Args:
        init: "paper", normal with standard deviation 0.01 and biases around 0.5; "he", normal with a variance that
            keeps the maps' scale through the rectifiers (He et al. 2015) and biases of 0.
        norm: batch normalisation after all convolutions but the first (the paper knew none). What is learnt is the
            paper's network all the same: at inference each is a scale and a shift of its convolution.
    """

    num_features = 9216

    def __init__(self, init: str = "paper", norm: bool = False) -> None:
        super().__init__()
        if init not in ("paper", "he"):
            raise ValueError(f"unknown init {init!r}: one of paper, he")
        widths, sizes = (1, 64, 128, 128, 256), (10, 7, 4, 4)
        self.layers = nn.ModuleList(nn.Conv2d(widths[k], widths[k + 1], size) for k, size in enumerate(sizes))
        for layer in self.layers:
            assert isinstance(layer, nn.Conv2d)
            assert layer.bias is not None
            if init == "he":
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)
            else:
                nn.init.normal_(layer.weight, 0.0, 0.01)
                nn.init.normal_(layer.bias, 0.5, 0.01)
        self.norms = nn.ModuleList(
            nn.BatchNorm2d(n) if norm and k else nn.Identity() for k, n in enumerate(widths[1:])
        )

    def forward_features(self, images: Tensor) -> Tensor:
        """(N, 3, 105, 105) -> (N, 256, 6, 6)."""
        x = images[:, :1]
        for k, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
            x = norm(layer(x))
            if k < len(self.layers) - 1:
                x = max_pool2d(x, 2)
            x = x.relu()  # after the maximum: the same values for a quarter of the work
        return x

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_features(images).flatten(1)


class ConvBlock(nn.Sequential):
    """Convolution without bias, batch normalisation, ReLU."""

    def __init__(self, n_in: int, n_out: int, kernel: int = 3) -> None:
        super().__init__(
            nn.Conv2d(n_in, n_out, kernel, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(n_out),
            nn.ReLU(inplace=True),
        )


class Conv4(nn.Module):
    """Four blocks of 3 x 3 convolution and pooling (Vinyals et al. 2016): (N, 3, S, S) -> (N, width (S / 16)^2).

    The customary network of few-shot learning; at 28 x 28 it learns thousands of drawings a second on a laptop.
    """

    def __init__(self, width: int = 64, size: int = 28) -> None:
        super().__init__()
        self.num_features = width * (size // 16) ** 2
        self.blocks = nn.ModuleList(ConvBlock(width if k else 1, width) for k in range(4))

    def forward_features(self, images: Tensor) -> Tensor:
        x = images[:, :1]
        for block in self.blocks:
            convolution, norm, rectify = block.children()
            x = rectify(max_pool2d(norm(convolution(x)), 2))  # the same values, a quarter of them to rectify
        return x

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_features(images).flatten(1)


class InceptionBlock(nn.Module):
    """Four branches side by side (Szegedy et al. 2015, with 3 x 3 twice for 5 x 5 as in 2016): 1 x 1, 3 x 3, twice
    3 x 3, and the mean of 3 x 3; each gives a quarter of ``n_out`` channels."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        q = n_out // 4
        self.point = ConvBlock(n_in, q, 1)
        self.small = nn.Sequential(ConvBlock(n_in, q, 1), ConvBlock(q, q))
        self.large = nn.Sequential(ConvBlock(n_in, q, 1), ConvBlock(q, q), ConvBlock(q, q))
        self.mean = nn.Sequential(nn.AvgPool2d(3, 1, 1), ConvBlock(n_in, q, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.point(x), self.small(x), self.large(x), self.mean(x)], 1)


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions and a 1 x 1 shortcut (He et al. 2016)."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            ConvBlock(n_in, n_out), nn.Conv2d(n_out, n_out, 3, padding=1, bias=False), nn.BatchNorm2d(n_out)
        )
        self.shortcut = nn.Sequential(nn.Conv2d(n_in, n_out, 1, bias=False), nn.BatchNorm2d(n_out))

    def forward(self, x: Tensor) -> Tensor:
        return (self.body(x) + self.shortcut(x)).relu()


class StrokeNet(nn.Module):
    """A network for line drawings: where a stroke lies is kept.

    (N, 3, S, S) -> (N, widths[-1] (S / 2^(len(widths) + 1))^2): the last maps are flattened, not averaged, for a
    character is told by where its strokes are. A 6 x 6 convolution of stride 2, then for each width a block and a
    pooling, and a last block.

    Args:
        widths: channels of the blocks.
        block: "inception" or "residual".
        size: the pictures' side, a multiple of 2^(len(widths) + 1).
    """

    def __init__(
        self, widths: tuple[int, ...] = (64, 128, 256), block: str = "inception", size: int = 64
    ) -> None:
        super().__init__()
        blocks = {"inception": InceptionBlock, "residual": ResidualBlock}
        if block not in blocks:
            raise ValueError(f"unknown block {block!r}: one of {', '.join(blocks)}")
        stem = widths[0] // 2
        layers: list[nn.Module] = [
            nn.Conv2d(1, stem, 6, stride=2, padding=2, bias=False),
            nn.BatchNorm2d(stem),
            nn.ReLU(inplace=True),
        ]
        for n_in, n_out in zip((stem, *widths), widths, strict=False):
            layers += [blocks[block](n_in, n_out), nn.MaxPool2d(2)]
        layers.append(blocks[block](widths[-1], widths[-1]))
        self.layers = nn.Sequential(*layers)
        self.num_features = widths[-1] * (size // 2 ** (len(widths) + 1)) ** 2
        self.norm = nn.BatchNorm1d(self.num_features)

    def forward_features(self, images: Tensor) -> Tensor:
        maps: Tensor = self.layers(images[:, :1])
        return maps

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.norm(self.forward_features(images).flatten(1))
        return out


def _no_weights(pretrained: bool) -> None:
    if pretrained:
        raise ValueError("nobody has published weights of it; use backbone.weights=null")


# timm hands its own arguments (num_classes, pretrained_cfg, ...) to every model; these networks have no use for them.
@register_model
def koch2015(pretrained: bool = False, init: str = "paper", norm: bool = False, **_: Any) -> Koch2015:
    _no_weights(pretrained)
    return Koch2015(init, norm)


@register_model
def conv4(pretrained: bool = False, width: int = 64, size: int = 28, **_: Any) -> Conv4:
    _no_weights(pretrained)
    return Conv4(width, size)


@register_model
def strokenet(
    pretrained: bool = False,
    widths: tuple[int, ...] = (64, 128, 256),
    block: str = "inception",
    size: int = 64,
    **_: Any,
) -> StrokeNet:
    _no_weights(pretrained)
    return StrokeNet(tuple(widths), block, size)
