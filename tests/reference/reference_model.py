#!/usr/bin/env python3
"""An independent reference of an Engram model: plain PyTorch, whole sequences, no cache.

Reads config.json and safetensors itself, computes the row ids itself, and writes the logits of every
position of every prompt. It shares no code with the C++ it checks. Slow on purpose: it says what the
formulas say, in their order.

  reference_model.py --model DIR --compression FILE --prompts FILE --out FILE [--engram-off]

  compression  JSON list: token id -> compressed id (its maximum + 1 is V)
  prompts      JSON list of {"ids": [...], "dead": [0 or 1, ...] (optional, v41)}
  out          fp32, little endian: the prompts' [tokens][vocabulary] logits one after the other
"""
import argparse
import json
import math
import pathlib
import struct
import sys

try:
    import numpy as np
    import torch
except ImportError as error:
    print(error, file=sys.stderr)
    sys.exit(77)


class Checkpoint:
    """The tensors of a folder, as fp32 (byte tensors stay bytes)."""

    DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
              "F8_E4M3": torch.uint8, "F8_E8M0": torch.uint8}

    def __init__(self, folder):
        index = folder / "model.safetensors.index.json"
        if index.exists():
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        else:
            names = ["model.safetensors"]
        self.tensors = {}
        for name in names:
            data = (folder / name).read_bytes()
            (header_bytes,) = struct.unpack("<Q", data[:8])
            start = 8 + header_bytes
            for tensor, entry in json.loads(data[8:start]).items():
                if tensor == "__metadata__":
                    continue
                begin, end = entry["data_offsets"]
                raw = torch.frombuffer(bytearray(data[start + begin:start + end]),
                                       dtype=self.DTYPES[entry["dtype"]])
                self.tensors[tensor] = raw.reshape(entry["shape"])

    def raw(self, name):
        return self.tensors[name] if name in self.tensors else self.tensors["model." + name]

    def get(self, name):
        return self.raw(name).to(torch.float32)


# ---- Row ids ------------------------------------------------------------------------------------

def is_prime(n):
    return n >= 2 and all(n % d for d in range(2, math.isqrt(n) + 1))


class EngramIds:
    """Layer id -> multipliers, primes; tokens -> row ids."""

    def __init__(self, config, compression):
        self.compression = compression
        self.v = max(compression) + 1
        text = config.get("text_config", config)
        if "engram_config" in config:
            e = config["engram_config"]
            self.variant = "demo"
            self.layers = e["layer_ids"]
            self.order = e["max_ngram_size"]
            self.heads = e["n_head_per_ngram"]
            self.bases = e["engram_vocab_size"]
            self.row_values = e["n_embed_per_ngram"] // self.heads
            self.pad = compression[e.get("pad_id", 2)]
            self.seed = e.get("seed", 0)
            self.kernel = e.get("kernel_size", 4)
        else:
            e = text if "engram_layer_ids" in text else config
            self.variant = "v41"
            self.layers = e["engram_layer_ids"]
            self.order = e["engram_max_ngram_size"]
            self.heads = e["engram_n_heads"]
            self.bases = [e["engram_vocab_size"]] * (self.order - 1)
            self.row_values = e["engram_head_dim"]
            self.pad = compression[e["engram_pad_token_id"]]
            self.seed = 0
            assert self.v == e["engram_compressed_vocab_size"]
        used = set()
        self.primes = {}
        for layer in self.layers:
            sizes = []
            for base in self.bases:
                current = base - 1
                for _ in range(self.heads):
                    current += 1
                    while current in used or not is_prime(current):
                        current += 1
                    used.add(current)
                    sizes.append(current)
            self.primes[layer] = sizes
        self.multipliers = {layer: self.layer_multipliers(layer) for layer in self.layers}

    def layer_multipliers(self, layer):
        half = max(1, ((2 ** 63 - 1) // self.v) // 2)
        rng = np.random.default_rng(self.seed + 10007 * layer)
        draws = rng.integers(0, half, size=self.order, dtype=np.int64)
        return [2 * int(r) + 1 for r in draws]

    def look(self, ids, dead, t, k):
        if self.variant == "demo":
            return self.compression[ids[t - k]] if t - k >= 0 else self.pad
        for back in range(k + 1):
            if t - back < 0 or dead[t - back]:
                return self.pad
        return self.compression[ids[t - k]]

    def row_ids(self, layer, ids, dead):
        """[tokens][columns]"""
        multipliers, primes = self.multipliers[layer], self.primes[layer]
        offsets = [sum(primes[:c]) for c in range(len(primes))]
        rows = []
        for t in range(len(ids)):
            mix, row = 0, []
            for n in range(1, self.order + 1):
                mix ^= self.look(ids, dead, t, n - 1) * multipliers[n - 1]
                if n < 2:
                    continue
                for j in range(self.heads):
                    column = (n - 2) * self.heads + j
                    row.append(mix % primes[column] + offsets[column])
            rows.append(row)
        return rows


def e4m3_table():
    values = []
    for code in range(256):
        exponent, mantissa = (code >> 3) & 15, code & 7
        if code & 0x7F == 0x7F:
            value = math.nan
        elif exponent == 0:
            value = mantissa / 8 * 2.0 ** -6
        else:
            value = (1 + mantissa / 8) * 2.0 ** (exponent - 7)
        values.append(-value if code & 0x80 else value)
    return torch.tensor(values, dtype=torch.float64)


def table_rows(checkpoint, ids, layer, rows):
    """e: [tokens, columns * row_values] fp32"""
    prefix = f"layers.{layer}.engram."
    flat = torch.tensor(rows, dtype=torch.long)
    if ids.variant == "demo":
        table = checkpoint.get(prefix + "multi_head_embedding.embedding.weight")
        return table[flat].reshape(len(rows), -1)
    weight = checkpoint.raw(prefix + "embed.weight")[flat].to(torch.long)
    scale = checkpoint.raw(prefix + "embed.scale")[flat].to(torch.float64)
    value = e4m3_table()[weight] * 2.0 ** (scale.repeat_interleave(32, dim=-1) - 127)
    return value.to(torch.float32).to(torch.bfloat16).to(torch.float32).reshape(len(rows), -1)


# ---- The model ----------------------------------------------------------------------------------

def rms_norm(x, weight, eps):
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps) * weight


class Model:
    def __init__(self, folder, compression):
        root = json.loads((folder / "config.json").read_text())
        text = root.get("text_config", {})
        self.config = text if "hidden_size" in text else root
        self.checkpoint = Checkpoint(folder)
        has_engram = "engram_config" in root or "engram_layer_ids" in root or \
            "engram_layer_ids" in text
        self.engram = EngramIds(root, compression) if has_engram else None
        self.eps = self.config["rms_norm_eps"]

    def fuse_v41(self, layer, h, e, dead):
        """h [tokens, G, d]"""
        get = lambda name: self.checkpoint.get(f"layers.{layer}.engram.{name}")
        q_weight, k_weight = get("q_weight"), get("k_weight")
        branches, d = q_weight.shape
        kv = (e @ get("wkv.weight").T).reshape(len(e), branches + 1, d)
        key, value = kv[:, :branches], kv[:, branches:]
        s = (h * q_weight * k_weight * key).sum(-1)
        s = s * torch.rsqrt((h * h).mean(-1) + self.eps)
        s = s * torch.rsqrt((key * key).mean(-1) + self.eps) / math.sqrt(d)
        root = torch.sqrt(torch.clamp(s.abs(), min=1e-6))
        gate = torch.sigmoid(torch.where(s < 0, -root, root))
        gate = torch.where(torch.tensor(dead, dtype=torch.bool)[:, None], torch.zeros(()), gate)
        return h + gate[..., None] * value

    def fuse_demo(self, layer, h, e):
        get = lambda name: self.checkpoint.get(f"layers.{layer}.engram.{name}")
        branches, d = h.shape[1:]
        eps = torch.finfo(torch.float32).eps
        value = e @ get("value_proj.weight").T + get("value_proj.bias")
        gated, normed = [], []
        for g in range(branches):
            key = e @ get(f"key_projs.{g}.weight").T + get(f"key_projs.{g}.bias")
            query = rms_norm(h[:, g], get(f"norm2.{g}.weight"), eps)
            s = (query * rms_norm(key, get(f"norm1.{g}.weight"), eps)).sum(-1) / math.sqrt(d)
            gate = torch.sigmoid(torch.sign(s) * torch.sqrt(torch.clamp(s.abs(), min=1e-6)))
            gated.append(gate[:, None] * value)
            normed.append(rms_norm(gated[-1], get(f"short_conv.norms.{g}.weight"), 1e-5))
        v = torch.stack(gated, 1)
        x = torch.cat(normed, -1).T[None]  # [1, G * d, tokens]
        dilation, kernel = self.engram.order, self.engram.kernel
        padded = torch.nn.functional.pad(x, ((kernel - 1) * dilation, 0))
        conv = torch.nn.functional.conv1d(padded, get("short_conv.conv.weight"), dilation=dilation,
                                          groups=branches * d)
        conv = torch.nn.functional.silu(conv)[0].T.reshape(-1, branches, d)
        return h + v + conv

    def attention(self, layer, x):
        c = self.config
        get = lambda name: self.checkpoint.get(f"layers.{layer}.self_attn.{name}.weight")
        tokens, heads, kv_heads, dim = len(x), c["num_attention_heads"], \
            c["num_key_value_heads"], c["head_dim"]
        q = (x @ get("q_proj").T).reshape(tokens, heads, dim)
        k = (x @ get("k_proj").T).reshape(tokens, kv_heads, dim)
        v = (x @ get("v_proj").T).reshape(tokens, kv_heads, dim)
        q = rms_norm(q, get("q_norm"), self.eps)
        k = rms_norm(k, get("k_norm"), self.eps)
        frequencies = 1.0 / (c.get("rope_theta", 10000.0) **
                             (torch.arange(0, dim, 2, dtype=torch.float32) / dim))
        angles = torch.arange(tokens, dtype=torch.float32)[:, None] * frequencies
        angles = torch.cat([angles, angles], -1)[:, None]
        turn = lambda y: y * angles.cos() + torch.cat([-y[..., dim // 2:], y[..., :dim // 2]],
                                                      -1) * angles.sin()
        q, k = turn(q), turn(k)
        k = k.repeat_interleave(heads // kv_heads, 1)
        v = v.repeat_interleave(heads // kv_heads, 1)
        scores = torch.einsum("qhd,khd->hqk", q, k) / math.sqrt(dim)
        scores = scores + torch.full((tokens, tokens), -math.inf).triu(1)
        out = torch.einsum("hqk,khd->qhd", torch.softmax(scores, -1), v)
        return out.reshape(tokens, heads * dim) @ get("o_proj").T

    def mlp(self, layer, x):
        get = lambda name: self.checkpoint.get(f"layers.{layer}.mlp.{name}.weight")
        return (torch.nn.functional.silu(x @ get("gate_proj").T) * (x @ get("up_proj").T)) @ \
            get("down_proj").T

    def logits(self, ids, dead, engram_on):
        get = self.checkpoint.get
        h = get("embed_tokens.weight")[torch.tensor(ids)]
        for layer in range(self.config["num_hidden_layers"]):
            if engram_on and self.engram is not None and layer in self.engram.layers:
                rows = self.engram.row_ids(layer, ids, dead)
                e = table_rows(self.checkpoint, self.engram, layer, rows)
                if self.engram.variant == "v41":
                    h = self.fuse_v41(layer, h[:, None], e, dead)[:, 0]
                else:
                    h = self.fuse_demo(layer, h[:, None], e)[:, 0]
            norm = lambda name: rms_norm(h, get(f"layers.{layer}.{name}.weight"), self.eps)
            h = h + self.attention(layer, norm("input_layernorm"))
            h = h + self.mlp(layer, norm("post_attention_layernorm"))
        h = rms_norm(h, get("norm.weight"), self.eps)
        tied = self.config.get("tie_word_embeddings", False)
        return h @ (get("embed_tokens.weight") if tied else self.checkpoint.get("lm_head.weight")).T


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--compression", type=pathlib.Path, required=True)
    parser.add_argument("--prompts", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--engram-off", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = Model(args.model, json.loads(args.compression.read_text()))
    with torch.no_grad(), open(args.out, "wb") as out:
        for prompt in json.loads(args.prompts.read_text()):
            dead = prompt.get("dead") or [0] * len(prompt["ids"])
            logits = model.logits(prompt["ids"], dead, not args.engram_off)
            out.write(logits.to(torch.float32).numpy().astype("<f4").tobytes())
    return 0


if __name__ == "__main__":
    sys.exit(main())
