#!/usr/bin/env python3
"""Many chat streams at once against one server on loopback: errors, time to first token, tokens/s, the server's memory.

    bench/streams.py                               # 1,000 streams of the simulated model: the gateway alone
    bench/streams.py --model m.gguf --tokens 32    # of a real model, stored in the server's own home first

Only the standard library. Exit status 1 if any stream failed. Memory is the server's, from /proc: before, the peak while
the streams ran, and after they ended.
"""

import argparse
import asyncio
import json
import os
import pathlib
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
from server_process import Server  # noqa: E402


def memory_mib(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def percentile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


class Stream:
    """One request. Reads raw bytes: an HTTP library would be what is measured."""

    def __init__(self):
        self.first_token_s = None
        self.tokens = 0
        self.seconds = 0.0
        self.error = None

    async def run(self, host, port, payload):
        start = time.perf_counter()
        writer = None
        try:
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(payload)
            status = (await reader.readline()).decode()
            if " 200 " not in status:
                raise RuntimeError(f"{status.strip()}: {(await reader.read(2000)).decode(errors='replace')[-300:]}")
            done = False
            while not done:
                line = await reader.readline()
                if not line:
                    raise RuntimeError("the connection ended inside the stream")
                if not line.startswith(b"data: "):
                    continue
                if line.startswith(b"data: [DONE]"):
                    done = True
                elif b'"error"' in line[:20]:
                    raise RuntimeError(line.decode().strip())
                elif b'"usage":{' in line:
                    self.tokens = json.loads(line[6:])["usage"]["completion_tokens"]
                elif self.first_token_s is None and b'"content":"' in line and b'"content":""' not in line:
                    self.first_token_s = time.perf_counter() - start
        except Exception as problem:  # each failure is counted and shown, none ends the run
            self.error = f"{type(problem).__name__}: {problem}"
        finally:
            self.seconds = time.perf_counter() - start
            if writer is not None:
                writer.close()


async def watch_memory(pid, peak, stop):
    while not stop.is_set():
        peak[0] = max(peak[0], memory_mib(pid))
        await asyncio.sleep(0.1)


async def drive(arguments, model, url, key, pid):
    host, port = url.split("//")[1].split(":")
    body = json.dumps({
        "model": model, "stream": True, "stream_options": {"include_usage": True}, "temperature": 0,
        "max_tokens": arguments.tokens, "ignore_eos": True,
        "messages": [{"role": "user", "content": arguments.prompt.replace("%TOKENS%", str(arguments.tokens))}]}).encode()
    payload = (f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\n"
               f"Content-Type: application/json\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n").encode() + body
    warm = Stream()
    await warm.run(host, int(port), payload)
    if warm.error:
        sys.exit(f"the first request failed: {warm.error}")
    before = memory_mib(pid)
    peak, stop = [before], asyncio.Event()
    watcher = asyncio.create_task(watch_memory(pid, peak, stop))
    streams = [Stream() for _ in range(arguments.streams)]
    start = time.perf_counter()
    await asyncio.wait_for(asyncio.gather(*(s.run(host, int(port), payload) for s in streams)), arguments.limit_s)
    seconds = time.perf_counter() - start
    stop.set()
    await watcher
    await asyncio.sleep(1)
    first = [s.first_token_s for s in streams if s.first_token_s is not None]
    tokens = sum(s.tokens for s in streams)
    return {
        "model": model, "streams": len(streams), "tokens_each": arguments.tokens,
        "errors": sum(s.error is not None for s in streams),
        "first_error": next((s.error for s in streams if s.error), None),
        "seconds": round(seconds, 3), "tokens": tokens, "tokens_per_s": round(tokens / seconds, 1),
        "ttft_s": {f"p{int(share * 100)}": round(percentile(first, share), 4) for share in (0.5, 0.9, 0.99)},
        "stream_s": {"p50": round(percentile([s.seconds for s in streams], 0.5), 3),
                     "max": round(max(s.seconds for s in streams), 3)},
        "server_rss_mib": {"before": round(before, 1), "peak": round(peak[0], 1), "after": round(memory_mib(pid), 1)},
        "rss_kib_per_stream": round((peak[0] - before) * 1024 / len(streams), 1),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--model", default="scripted", help="a .gguf file; without it the simulated model")
    parser.add_argument("--prompt", help="%%TOKENS%% becomes --tokens")
    parser.add_argument("--limit-s", type=float, default=300, help="the run is given up after so long")
    parser.add_argument("--binary", default=os.environ.get("TIDEPOOL_BINARY", str(ROOT / "build" / "tidepool")))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    simulated = arguments.model == "scripted"
    if arguments.prompt is None:
        arguments.prompt = "[[tokens:%TOKENS%]]" if simulated else "Write a short story about the sea."
    with Server(*(["--simulated"] if simulated else []), binary=arguments.binary) as server:
        model = "scripted" if simulated else server.store(pathlib.Path(arguments.model).resolve())
        result = asyncio.run(drive(arguments, model, server.url, server.key, server.process.pid))
    if arguments.json:
        print(json.dumps({"data": [{"id": "streams", **result}]}))
    else:
        for name, value in result.items():
            print(f"{name:20} {value}")
    sys.exit(1 if result["errors"] else 0)


if __name__ == "__main__":
    main()
