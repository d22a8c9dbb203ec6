"""SwinIR ×2, the light one: attention in windows, shifted in every second layer. Liang et al. 2021, arXiv 2108.10257.

The picture is filled up by reflection to a multiple of the window, and the result is cropped.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.models import Network

_CHANNELS, _HEADS, _WINDOW, _LAYERS, _GROUPS = 24, 3, 8, 2, 2
_SHIFT = _WINDOW // 2
_MEAN = (0.4488, 0.4371, 0.4040)


def to_windows(x: Tensor) -> Tensor:
    """(N, H, W, C) -> (N · windows, window · window, C)."""
    _, height, width, channels = x.shape
    tiles = x.view(-1, height // _WINDOW, _WINDOW, width // _WINDOW, _WINDOW, channels)
    return tiles.permute(0, 1, 3, 2, 4, 5).reshape(-1, _WINDOW * _WINDOW, channels)


def from_windows(windows: Tensor, height: int, width: int) -> Tensor:
    """(N · windows, window · window, C) -> (N, H, W, C)."""
    channels = windows.shape[-1]
    tiles = windows.view(-1, height // _WINDOW, width // _WINDOW, _WINDOW, _WINDOW, channels)
    return tiles.permute(0, 1, 3, 2, 4, 5).reshape(-1, height, width, channels)


def _regions(side: int) -> Tensor:
    """(side,): 0, 1 or 2, the part of a rolled row that a pixel belongs to."""
    at = torch.arange(side)
    return (at >= side - _WINDOW).float() + (at >= side - _SHIFT).float()


def shift_mask(height: int, width: int) -> Tensor:
    """(windows, window², window²): -100 between pixels that only the roll made neighbours, else 0."""
    region = _regions(height)[:, None] * 3 + _regions(width)[None, :]
    windows = to_windows(region[None, :, :, None]).squeeze(-1)
    return (windows[:, None, :] != windows[:, :, None]).float() * -100.0


def _relative_positions() -> Tensor:
    """(window², window²): which entry of the bias table a pair of pixels takes."""
    at = torch.arange(_WINDOW)
    rows, columns = (grid.flatten() for grid in torch.meshgrid(at, at, indexing="ij"))
    down = rows[:, None] - rows[None, :] + _WINDOW - 1
    return down * (2 * _WINDOW - 1) + columns[:, None] - columns[None, :] + _WINDOW - 1


class WindowAttention(nn.Module):
    """(windows, window², C) -> the same."""

    positions: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros((2 * _WINDOW - 1) ** 2, _HEADS))
        self.register_buffer("positions", _relative_positions(), persistent=False)
        self.qkv, self.out = nn.Linear(_CHANNELS, 3 * _CHANNELS), nn.Linear(_CHANNELS, _CHANNELS)
        nn.init.trunc_normal_(self.table, std=0.02)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        windows, pixels, channels = x.shape
        q, k, v = self.qkv(x).reshape(windows, pixels, 3, _HEADS, channels // _HEADS).permute(2, 0, 3, 1, 4)
        scores = (q * (channels // _HEADS) ** -0.5) @ k.transpose(-2, -1)
        bias = self.table[self.positions.view(-1)].view(pixels, pixels, _HEADS).permute(2, 0, 1)
        scores = scores + bias[None]
        if mask is not None:
            count = mask.shape[0]
            scores = scores.view(-1, count, _HEADS, pixels, pixels) + mask[None, :, None]
            scores = scores.view(-1, _HEADS, pixels, pixels)
        mixed = (torch.softmax(scores, -1) @ v).transpose(1, 2).reshape(windows, pixels, channels)
        out: Tensor = self.out(mixed)
        return out


class SwinLayer(nn.Module):
    """(N, H, W, C) -> the same."""

    def __init__(self, shift: int) -> None:
        super().__init__()
        self.shift = shift
        self.norm1, self.norm2, self.attention = nn.LayerNorm(_CHANNELS), nn.LayerNorm(_CHANNELS), WindowAttention()
        self.mlp = nn.Sequential(nn.Linear(_CHANNELS, 2 * _CHANNELS), nn.GELU(), nn.Linear(2 * _CHANNELS, _CHANNELS))

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        rolled: Tensor = self.norm1(x)
        if self.shift:
            rolled = torch.roll(rolled, (-self.shift, -self.shift), (1, 2))
        mask = shift_mask(height, width) if self.shift else None
        rolled = from_windows(self.attention(to_windows(rolled), mask), height, width)
        if self.shift:
            rolled = torch.roll(rolled, (self.shift, self.shift), (1, 2))
        x = x + rolled
        mixed: Tensor = self.mlp(self.norm2(x))
        return x + mixed


class SwinGroup(nn.Module):
    """(N, C, H, W) -> the same: layers in turn straight and shifted, a convolution, a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(SwinLayer(_SHIFT if at % 2 else 0) for at in range(_LAYERS)))
        self.conv = nn.Conv2d(_CHANNELS, _CHANNELS, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.layers(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        out: Tensor = self.conv(inner)
        return out + x


class SwinIR(nn.Module):
    """(N, 3, H, W) in [0, 1], H and W at least 8 -> (N, 3, H·scale, W·scale)."""

    mean: Tensor

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1), persistent=False)
        self.first = nn.Conv2d(3, _CHANNELS, 3, padding=1)
        self.body = nn.Sequential(*(SwinGroup() for _ in range(_GROUPS)))
        self.norm = nn.LayerNorm(_CHANNELS)
        self.trunk = nn.Conv2d(_CHANNELS, _CHANNELS, 3, padding=1)
        self.up = nn.Sequential(nn.Conv2d(_CHANNELS, 3 * scale**2, 3, padding=1), nn.PixelShuffle(scale))

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        down, right = (_WINDOW - height % _WINDOW) % _WINDOW, (_WINDOW - width % _WINDOW) % _WINDOW
        x = functional.pad(x, (0, right, 0, down), "reflect") - self.mean
        first: Tensor = self.first(x)
        body = self.norm(self.body(first).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        picture: Tensor = self.up(self.trunk(body) + first) + self.mean
        return picture[:, :, : height * self.scale, : width * self.scale]


NETWORK = Network(name="swinir", paper="Liang et al. 2021, arXiv 2108.10257", scales=(2,), build=SwinIR)
