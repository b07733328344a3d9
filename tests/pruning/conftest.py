import pytest
import torch
from torch import nn
from torch.nn import functional

from stts_cli.pruning import TokenScorer, current_attention


class TinyAttention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.head_dim = width // heads
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(width, width) for _ in range(4))


class TinyBlock(nn.Module):
    """A pre-norm ViT block; attends over its batch rows, or over what the method asks for."""

    def __init__(self, width=24, heads=2):
        super().__init__()
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.self_attn = TinyAttention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x, attention_mask=None):
        """Run on (B, S, D); attention_mask is additive and broadcasts to (B, H, S, S)."""
        a = self.self_attn
        normed = self.layer_norm1(x)
        q, k, v = (p(normed).unflatten(-1, (-1, a.head_dim)).transpose(1, 2) for p in (a.q_proj, a.k_proj, a.v_proj))
        attention = current_attention()
        if attention is None:
            out = functional.scaled_dot_product_attention(q, k, v, attn_mask=attention_mask).transpose(1, 2)
        else:
            out = attention(q, k, v, a.head_dim**-0.5)
        x = x + a.o_proj(out.flatten(-2))
        return x + self.mlp(self.layer_norm2(x))


class TinyVit:
    """Blocks, and which of them are read; negative numbers from the end."""

    def __init__(self, blocks, taps, embed=lambda x: x):
        self.taps = [tap % len(blocks) for tap in taps]
        self.vit_blocks, self.embed = list(blocks)[: max(self.taps) + 1], embed

    def parts(self, number):
        return ()

    def run_block(self, number, hidden):
        return self.vit_blocks[number](hidden, attention_mask=None)


@pytest.fixture
def tiny_blocks():
    torch.manual_seed(0)
    blocks = nn.ModuleList([TinyBlock() for _ in range(7)])
    with torch.no_grad():
        for p in blocks.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return blocks


@pytest.fixture
def setting(tiny_blocks):
    torch.manual_seed(1)
    scorer = TokenScorer(24, 2, 16)
    for p in scorer.parameters():
        torch.nn.init.normal_(p, std=0.5)
    return tiny_blocks, torch.randn(10, 20, 24), scorer
