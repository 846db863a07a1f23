#!/usr/bin/env python3
"""How fast PyTorch runs the backbone that bench/offload measures: the Qwen3 4 B and 8 B shapes with
seeded weights and without Engram. Compiled layers, SDPA, a static KV cache, the whole decode step
in one CUDA graph: what to hold engram-model-worker's own speed against (bench/backbone does).

Prints one line of JSON for each number of sequences, and one for prefill.
"""
import argparse
import json
import statistics
import time

import torch
import torch.nn.functional as F

SHAPES = {
    "4b": dict(hidden=2560, intermediate=9728, heads=32, kv_heads=8, head_dim=128, layers=36),
    "8b": dict(hidden=4096, intermediate=12288, heads=32, kv_heads=8, head_dim=128, layers=36),
}


def rms_norm(x, weight):
    return F.rms_norm(x, (x.shape[-1],), weight, 1e-6)


def rotate(x, cos, sin):
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


class Layer(torch.nn.Module):
    """One block; query, key and value, and gate and up, are one product each."""

    def __init__(self, shape):
        super().__init__()
        self.shape = shape
        h, d = shape["hidden"], shape["head_dim"]
        rows = (shape["heads"] + 2 * shape["kv_heads"]) * d

        def weight(*size):
            return torch.nn.Parameter(torch.randn(*size, device="cuda", dtype=torch.bfloat16) * 0.02)

        def gain(size):
            return torch.nn.Parameter(torch.ones(size, device="cuda", dtype=torch.bfloat16))

        self.qkv, self.out = weight(rows, h), weight(h, shape["heads"] * d)
        self.gate_up = weight(2 * shape["intermediate"], h)
        self.down = weight(h, shape["intermediate"])
        self.norm1, self.norm2, self.q_norm, self.k_norm = gain(h), gain(h), gain(d), gain(d)

    def project(self, x, cos, sin):
        s = self.shape
        batch, tokens, _ = x.shape
        qkv = F.linear(rms_norm(x, self.norm1), self.qkv)
        q, k, v = qkv.split([s["heads"] * s["head_dim"]] + 2 * [s["kv_heads"] * s["head_dim"]], dim=-1)
        q = rms_norm(q.view(batch, tokens, s["heads"], s["head_dim"]), self.q_norm).transpose(1, 2)
        k = rms_norm(k.view(batch, tokens, s["kv_heads"], s["head_dim"]), self.k_norm).transpose(1, 2)
        v = v.view(batch, tokens, s["kv_heads"], s["head_dim"]).transpose(1, 2)
        return rotate(q, cos, sin), rotate(k, cos, sin), v

    def finish(self, x, attended):
        x = x + F.linear(attended.reshape(x.shape[0], x.shape[1], -1), self.out)
        gate, up = F.linear(rms_norm(x, self.norm2), self.gate_up).chunk(2, dim=-1)
        return x + F.linear(F.silu(gate) * up, self.down)

    def decode(self, x, cos, sin, keys, values, position, mask):
        s = self.shape
        q, k, v = self.project(x, cos, sin)
        keys.index_copy_(2, position, k)
        values.index_copy_(2, position, v)
        # The queries that share a KV head as its rows: no kernel has to repeat keys for them.
        q = q.view(x.shape[0], s["kv_heads"], s["heads"] // s["kv_heads"], s["head_dim"])
        attended = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
        return self.finish(x, attended)

    def prefill(self, x, cos, sin):
        q, k, v = self.project(x, cos, sin)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.finish(x, attended.transpose(1, 2))


def angles(positions, head_dim):
    inverse = 1.0 / 1e6 ** (torch.arange(0, head_dim, 2, device="cuda").float() / head_dim)
    product = positions.float()[:, None] * inverse[None]
    return product.cos().bfloat16(), product.sin().bfloat16()


def median_seconds(call, repetitions):
    times = []
    for _ in range(repetitions):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        call()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


class Decode:
    """A greedy decode step of `sequences` sequences, captured as one graph."""

    def __init__(self, layers, shape, vocabulary, sequences, positions):
        s = shape
        cache = (sequences, s["kv_heads"], positions, s["head_dim"])
        self.caches = [
            [torch.randn(cache, device="cuda", dtype=torch.bfloat16) for _ in range(2)] for _ in layers
        ]
        self.embedding = torch.randn(vocabulary, s["hidden"], device="cuda", dtype=torch.bfloat16) * 0.02
        self.norm = torch.ones(s["hidden"], device="cuda", dtype=torch.bfloat16)
        self.tokens = torch.zeros(sequences, 1, device="cuda", dtype=torch.long)
        self.position = torch.zeros(1, device="cuda", dtype=torch.long)
        self.columns = torch.arange(positions, device="cuda")
        self.layers, self.head_dim = layers, s["head_dim"]
        self.layer_step = torch.compile(Layer.decode, fullgraph=True, dynamic=False)
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.step()
        torch.cuda.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.step()

    def step(self):
        cos, sin = angles(self.position, self.head_dim)
        mask = (self.columns <= self.position)[None, None, None]
        x = F.embedding(self.tokens, self.embedding)
        for layer, (keys, values) in zip(self.layers, self.caches):
            x = self.layer_step(layer, x, cos, sin, keys, values, self.position, mask)
        logits = F.linear(rms_norm(x, self.norm), self.embedding)
        self.tokens.copy_(logits.argmax(dim=-1))

    def run(self, first, count):
        """`count` tokens of each sequence, after `first` positions; each is told to the host."""
        for place in range(first, first + count):
            self.position.fill_(place)
            self.graph.replay()
            self.tokens.tolist()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="4b")
    parser.add_argument("--vocabulary", type=int, default=151936, help="of the model compared with")
    parser.add_argument("--sequences", type=int, nargs="+", default=[1, 4, 32, 128])
    parser.add_argument("--prompt", type=int, default=313, help="positions before the decode steps")
    parser.add_argument("--tokens", type=int, default=64, help="decode steps")
    parser.add_argument("--prefill", type=int, nargs=2, default=[4, 512], metavar=("SEQUENCES", "TOKENS"))
    parser.add_argument("--repetitions", type=int, default=7)
    args = parser.parse_args()
    shape = SHAPES[args.shape]
    torch.manual_seed(7)
    torch._dynamo.config.cache_size_limit = 64  # of layers, should each be compiled for itself
    with torch.no_grad():
        layers = [Layer(shape) for _ in range(shape["layers"])]
        positions = (args.prompt + args.tokens + 63) // 64 * 64
        for sequences in args.sequences:
            torch._dynamo.reset()
            decode = Decode(layers, shape, args.vocabulary, sequences, positions)
            decode.run(args.prompt, args.tokens)
            seconds = median_seconds(lambda: decode.run(args.prompt, args.tokens), args.repetitions)
            step = seconds / args.tokens
            print(json.dumps({"sequences": sequences, "step_us": round(step * 1e6, 1),
                              "decode_tok_s": round(sequences / step, 1)}), flush=True)
            del decode
        batch, tokens = args.prefill
        cos, sin = angles(torch.arange(tokens, device="cuda"), shape["head_dim"])
        layer_prefill = torch.compile(Layer.prefill, fullgraph=True, dynamic=False)
        x = torch.randn(batch, tokens, shape["hidden"], device="cuda", dtype=torch.bfloat16) * 0.02

        def prefill():
            y = x
            for layer in layers:
                y = layer_prefill(layer, y, cos, sin)

        for _ in range(3):
            prefill()
        seconds = median_seconds(prefill, args.repetitions * 3)
        print(json.dumps({"prefill_tokens": batch * tokens, "step_us": round(seconds * 1e6, 1),
                          "prefill_tok_s": round(batch * tokens / seconds, 1)}))


if __name__ == "__main__":
    main()
