#!/usr/bin/env python3
"""Prints the demo's report and writes it as one self-contained HTML page.
usage: demo-report.py TCP_JSON MAPPED_JSON OUT_HTML"""
import html
import json
import sys

BLUE, GREY, ORANGE = "#2563eb", "#94a3b8", "#ea580c"
SIDES = (("remote", "memory nodes", BLUE), ("local", "in process", GREY), ("off", "Engram off", GREY))
TIMES = (("ttft", "time to first token"), ("tpot", "time of each token after it"))


def us(value):
    return f"{value / 1000:.2f} ms" if value >= 1000 else f"{value:.0f} us"


def lines_of(report, title):
    """The report in words: a list of (label, text)."""
    low, high = report["ratio_ci95"]
    out = [(title, "")]
    out.append(("tokens/s, tables on the memory nodes", f"{report['tok_s_remote']:.1f}"))
    out.append(("tokens/s, same tables in the worker's process", f"{report['tok_s_local']:.1f}"))
    out.append(("tokens/s, Engram off", f"{report['tok_s_off']:.1f}"))
    out.append((f"remote / in process, median of {report['pairs']} pairs",
                f"{report['ratio_median']:.4f}  ({100 * report['ratio_ci95_coverage']:.0f} % interval {low:.4f} to {high:.4f})"))
    for key, label in TIMES:
        out.append((f"{key.upper()} p50 / p99: remote; in process; off", "; ".join(
            f"{report['latency_' + side][key + '_p50_ms']:.1f} / {report['latency_' + side][key + '_p99_ms']:.1f}"
            for side, _, _ in SIDES) + " ms"))
    for name, layer in sorted(report["layers"].items(), key=lambda item: int(item[0])):
        out.append((f"layer {name}: prefetch p50 / p99",
                    f"{us(layer['prefetch_p50_us'])} / {us(layer['prefetch_p99_us'])}"))
        out.append((f"layer {name}: window p50, batches ready in time",
                    f"{us(layer['window_p50_us'])}, {100 * layer['hidden_fraction']:.2f} %"))
    out.append(("time stalled on rows", f"{report['remote_stall_percent']:.3f} % of the run"))
    out.append(("rows asked, after dedupe, from cache, read",
                "{rows_asked:,}, {rows_unique:,}, {rows_from_cache:,}, {rows_read:,}".format(**report)))
    out.append(("rows verified, rows wrong",
                f"{report['rows_verified']:,}, {report['rows_wrong']:,}"))
    out.append(("CPU time of the row path", f"{report['row_path_cpu_us_per_token']:.2f} us a token"))
    out.append(("memory nodes, way", f"{report['nodes']}, {report['way']}"))
    out.append(("same tokens, remote and in process", "yes" if report["identical_tokens"] else "NO"))
    out.append(("other tokens with Engram off", "yes" if report["off_differs"] else "NO"))
    return out


def print_text(reports):
    for title, report in reports:
        rows = lines_of(report, title)
        print(f"\n== {rows[0][0]} ==")
        for label, text in rows[1:]:
            print(f"  {label:<48} {text}")
    print()


def bars(values, unit):
    """Horizontal bars as SVG; values: (label, number, colour)."""
    top = max(number for _, number, _ in values) or 1
    height = 34 * len(values) + 6
    parts = [f'<svg viewBox="0 0 640 {height}" role="img">']
    for index, (label, number, colour) in enumerate(values):
        y = 34 * index + 6
        width = 400 * number / top
        parts.append(f'<text x="0" y="{y + 17}">{html.escape(label)}</text>')
        parts.append(f'<rect x="150" y="{y}" width="{width:.1f}" height="24" fill="{colour}" rx="3"/>')
        parts.append(f'<text x="{156 + width:.1f}" y="{y + 17}">{number:,.1f} {unit}</text>')
    parts.append("</svg>")
    return "".join(parts)


def pair_dots(ratios):
    """Every pair's ratio as a dot, with a line at 1."""
    low, high = min(ratios + [0.95]), max(ratios + [1.05])
    span = high - low

    def y(ratio):
        return 150 - 140 * (ratio - low) / span

    parts = ['<svg viewBox="0 0 640 165" role="img">',
             f'<line x1="40" x2="630" y1="{y(1):.1f}" y2="{y(1):.1f}" stroke="{GREY}"/>',
             f'<text x="0" y="{y(1) + 4:.1f}">1.00</text>',
             f'<line x1="40" x2="630" y1="{y(0.97):.1f}" y2="{y(0.97):.1f}" stroke="{ORANGE}" '
             'stroke-dasharray="4 4"/>', f'<text x="0" y="{y(0.97) + 4:.1f}">0.97</text>']
    for index, ratio in enumerate(ratios):
        x = 55 + 560 * index / max(1, len(ratios) - 1)
        parts.append(f'<circle cx="{x:.1f}" cy="{y(ratio):.1f}" r="5" fill="{BLUE}"/>')
    parts.append("</svg>")
    return "".join(parts)


def page(reports):
    body = ["<h1>engram-pool demo</h1>",
            "<p>One coordinator, three memory nodes and one model worker on one machine. The model's "
            "weights are random: its text means nothing, its row traffic is real.</p>"]
    for title, report in reports:
        body.append(f"<h2>{html.escape(title)}</h2>")
        body.append(bars([(label, report["tok_s_" + side], colour) for side, label, colour in SIDES], "tok/s"))
        if report.get("ratios"):
            body.append("<h3>Remote / in process, pair by pair</h3>" + pair_dots(report["ratios"]))
        for key, label in TIMES:
            body.append(f"<h3>{label.capitalize()}, p50 and p99</h3>")
            body.append(bars([(f"{name} {quantile}", report["latency_" + side][f"{key}_{quantile}_ms"], colour)
                              for side, name, colour in SIDES for quantile in ("p50", "p99")], "ms"))
        for name, layer in sorted(report["layers"].items(), key=lambda item: int(item[0])):
            body.append(f"<h3>Layer {html.escape(name)}: is the read hidden?</h3>")
            body.append(bars([("prefetch p50", layer["prefetch_p50_us"], BLUE),
                              ("prefetch p99", layer["prefetch_p99_us"], BLUE),
                              ("window p50", layer["window_p50_us"], GREY)], "us"))
        rows = "".join(f"<tr><td>{html.escape(label)}</td><td>{html.escape(text)}</td></tr>"
                       for label, text in lines_of(report, title)[1:])
        body.append(f"<table>{rows}</table>")
    style = ("body{font:15px/1.5 system-ui,sans-serif;max-width:720px;margin:2em auto;color:#0f172a}"
             "svg{width:100%;font-size:13px}table{border-collapse:collapse;width:100%}"
             "td{padding:4px 8px;border-bottom:1px solid #e2e8f0}td:last-child{text-align:right}")
    return ("<!doctype html><html lang=en><meta charset=utf-8><title>engram-pool demo</title>"
            f"<style>{style}</style><body>{''.join(body)}</body></html>\n")


def main():
    reports = []
    for title, path in (("Over TCP, as separate hosts would", sys.argv[1]),
                        ("Mapped memory, as on the same host", sys.argv[2])):
        with open(path, encoding="utf-8") as file:
            reports.append((title, json.load(file)))
    print_text(reports)
    with open(sys.argv[3], "w", encoding="utf-8") as out:
        out.write(page(reports))


if __name__ == "__main__":
    main()
