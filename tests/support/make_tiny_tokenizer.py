#!/usr/bin/env python3
"""Writes tests/data/tiny_tokenizer.json: a byte-level BPE tokenizer in Hugging Face's layout, small
enough for every test, with the pre-tokenizer shape of published models and three added tokens."""
import collections
import json
import re
import sys

MERGES = 700
TEXT = """
A memory node holds the rows; a worker reads them ahead of the layer that needs them. The quick brown
fox jumps over the lazy dog. The Quick BROWN Fox; the quick, brown fox! Every table is immutable, every
row is checked, and every reader knows which version it reads. In the beginning the tables were copied
to every node, and the nodes were full. Then came one copy for the whole cluster, and there was room.
int main(void) { return 0; } for (int i = 0; i < 10; ++i) { sum += values[i]; } def read_rows(ids):
    return [table[i] for i in ids]
Numbers such as 1, 12, 123, 2026 and 3.14159 are split. Été, naïve, café, Ångström, Straße, İstanbul.
"""


def byte_alphabet():
    keep = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    mapping, extra = {}, 0
    for byte in range(256):
        if byte in keep:
            mapping[byte] = chr(byte)
        else:
            mapping[byte] = chr(256 + extra)
            extra += 1
    return mapping


def main():
    mapping = byte_alphabet()
    words = collections.Counter()
    for piece in re.findall(r" ?[^\W\d]+| ?\d| ?[^\s\w]+|\s+", TEXT):
        words[tuple(mapping[b] for b in piece.encode("utf-8"))] += 1
    vocabulary = {mapping[byte]: index for index, byte in enumerate(range(256))}
    merges = []
    while len(merges) < MERGES:
        pairs = collections.Counter()
        for word, count in words.items():
            for pair in zip(word, word[1:]):
                pairs[pair] += count
        if not pairs:
            break
        pair = max(sorted(pairs), key=lambda p: pairs[p])
        merges.append(pair)
        vocabulary.setdefault("".join(pair), len(vocabulary))
        merged = collections.Counter()
        for word, count in words.items():
            out, i = [], 0
            while i < len(word):
                if i + 1 < len(word) and (word[i], word[i + 1]) == pair:
                    out.append(word[i] + word[i + 1])
                    i += 2
                else:
                    out.append(word[i])
                    i += 1
            merged[tuple(out)] += count
        words = merged
    added = []
    for content in ("<|begin|>", "<|end|>", "<|pad|>"):
        added.append({"id": len(vocabulary) + len(added), "content": content, "single_word": False,
                      "lstrip": False, "rstrip": False, "normalized": False, "special": True})
    split = r"\p{N}|[^\s\p{L}\p{P}\p{S}\p{N}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+|\s+(?!\S)|\s+"
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": split}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
             "use_regex": False}]},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True,
                    "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None,
                  "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False,
                  "byte_fallback": False, "vocab": vocabulary,
                  "merges": [" ".join(pair) for pair in merges]}}
    with open(sys.argv[1], "w", encoding="utf-8") as out:
        json.dump(tokenizer, out, ensure_ascii=False, indent=0)
        out.write("\n")
    print(f"{len(vocabulary) + len(added)} ids, {len(merges)} merges")


if __name__ == "__main__":
    main()
