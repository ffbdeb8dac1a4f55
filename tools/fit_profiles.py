#!/usr/bin/env python3
"""Fits step profiles to the measurements of the Aegaeon artifact (aegaeon/profiles, Apache-2.0) and writes data/profiles.

usage: tools/fit_profiles.py AEGAEON/aegaeon/profiles [data/profiles]

  prefill  base + per_token * tokens (+ per_token2 * tokens^2)          decode  base + per_context * context + per_sequence * B

Least squares with non-negative coefficients over the points with input * batch <= 4096 tokens: many sets were taken
with a cap of 4,096 tokens a prefill, above which prefill saturates and decode is inflated. The quadratic term is kept
only where it explains more than 0.2 % of the variance that is left without it.
"""
import json
import pathlib
import re
import sys

import numpy

MODELS = {
    "qwen2.5-7b": ("qwen2_5_7b", "Qwen2.5-7B", 15.2e9, 28, 57344),
    "yi1.5-9b": ("yi1_5_9b_chat", "Yi1.5-9B", 17.7e9, 48, 98304),
    "llama2-13b": ("llama2_13b_chat", "Llama2-13B", 26.0e9, 40, 819200),
    "qwen1.5-14b": ("qwen1_5_14b_chat", "Qwen1.5-14B", 28.3e9, 40, 819200),
}
# arena: 87.5 % of the memory, as the artifact sets it (70 of 80 GB). Copies: measured host-to-device rates of PCIe 5
# and 4 x16 are about 25 GB/s under load and at best. Prices are round examples for arithmetic, not anybody's offer.
DEVICES = {"H800": (70e9, 25e9, 2.5), "H100": (70e9, 25e9, 3.0), "A100": (70e9, 20e9, 1.8), "A10": (21e9, 20e9, 0.8),
           "H20": (84e9, 25e9, 1.5)}


def non_negative(columns, values):
    """Least squares; columns whose coefficient would be negative are left out, the worst first."""
    kept = list(range(columns.shape[1]))
    while True:
        solved = numpy.linalg.lstsq(columns[:, kept], values, rcond=None)[0]
        if solved.min() >= 0:
            break
        kept.pop(int(solved.argmin()))
    out = numpy.zeros(columns.shape[1])
    out[kept] = solved
    left = values - columns @ out
    return out, 1 - float((left**2).sum() / ((values - values.mean()) ** 2).sum())


def rounded(value, digits):
    return round(float(value), digits)


def trimmed(samples):
    ordered = sorted(samples)
    cut = len(ordered) // 6
    return float(numpy.mean(ordered[cut:len(ordered) - cut] if cut else ordered))


def fit(folder):
    rows = []
    for file in folder.glob("i*b*.json"):
        length, batch = map(int, re.fullmatch(r"i(\d+)b(\d+)", file.stem).groups())
        data = json.loads(file.read_text())
        if length * batch <= 4096 and data.get("prefill_latencies") and data.get("decode_latencies"):
            rows.append((length, batch, trimmed(data["prefill_latencies"]), trimmed(data["decode_latencies"])))
    length, batch, prefill, decode = (numpy.array(column, dtype=float) for column in zip(*rows))
    one = numpy.ones_like(length)
    line, r2 = non_negative(numpy.stack([one, length * batch], 1), prefill)
    curve, r2_curve = non_negative(numpy.stack([one, length * batch, length**2 * batch], 1), prefill)
    quadratic = r2_curve - r2 > 0.002
    coefficients = curve if quadratic else numpy.append(line, 0)
    step, step_r2 = non_negative(numpy.stack([one, length * batch, batch], 1), decode)
    return {
        "prefill": {"base_ms": rounded(coefficients[0] * 1e3, 3), "per_token_us": rounded(coefficients[1] * 1e6, 3),
                    "per_token2_ns": rounded(coefficients[2] * 1e9, 3)},
        "decode": {"base_ms": rounded(step[0] * 1e3, 3), "per_context_token_us": rounded(step[1] * 1e6, 4),
                   "per_sequence_us": rounded(step[2] * 1e6, 2)},
        "points": len(rows), "r2_prefill": rounded(r2_curve if quadratic else r2, 4), "r2_decode": rounded(step_r2, 4),
    }


def main():
    source, target = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2] if len(sys.argv) > 2 else "data/profiles")
    target.mkdir(parents=True, exist_ok=True)
    shapes = {name: {"title": title, "weight_bytes": int(weights), "layers": layers, "kv_token_bytes": kv}
              for name, (_, title, weights, layers, kv) in MODELS.items()}
    (target / "models.json").write_text(json.dumps({"models": shapes}, indent=2) + "\n")
    for device, (arena, copy, price) in DEVICES.items():
        models = {name: fit(source / folder / device) for name, (folder, *_) in MODELS.items()
                  if (source / folder / device).is_dir()}
        file = target / f"{device.lower()}.json"
        before = json.loads(file.read_text())["models"] if file.exists() else {}
        out = {"device": device, "arena_bytes": int(arena), "copy_bytes_per_s": int(copy), "price_per_hour": price,
               "price_note": "an example; set your own with --price or here",
               "source": "least squares over the profiles of the SOSP'25 Aegaeon artifact (Apache-2.0), eager mode, "
                         "bf16, one device; tools/fit_profiles.py",
               "models": {**models, **before}}
        file.write_text(json.dumps(out, indent=2) + "\n")
        for name, found in models.items():
            print(device, name, found, "kept:" if name in before else "new", before.get(name, ""))


main()
