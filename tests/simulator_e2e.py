"""`tidepool sim` and `tidepool plan`: the real binary, without a server; and the endpoints of a real one."""

import json
import os
import pathlib
import re
import subprocess
import threading
import urllib.error
import urllib.request
import xml.dom.minidom

import pytest

import make_pool_models
from cli_e2e import Screen
from server_process import Server

VOCABULARY = pathlib.Path(os.environ.get("TIDEPOOL_TEST_DATA", "")) / "llama.cpp/models/ggml-vocab-qwen2.gguf"
BINARY = os.environ["TIDEPOOL_BINARY"]
ROOT = pathlib.Path(__file__).resolve().parent.parent
FIELDS = ["policy", "models", "devices", "requests", "tokens_on_time", "requests_on_time", "ttft_p50_s", "ttft_p99_s",
          "max_stall_p50_s", "max_stall_p99_s", "utilisation", "switches", "bytes_moved", "wall_s"]


def tidepool(tmp_path, *arguments, seconds=300):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TIDEPOOL_")}
    environment.update(TIDEPOOL_HOME=str(tmp_path / "home"), LC_ALL="C.UTF-8")
    return subprocess.run([BINARY, *arguments], capture_output=True, text=True, timeout=seconds, env=environment)


def simulated(tmp_path, *arguments):
    done = tidepool(tmp_path, "sim", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["data"]


def test_rows_have_the_fields_and_need_no_server(tmp_path):
    rows = simulated(tmp_path, "--workload", "poisson:0.1x20", "--devices", "4xH800", "--duration", "100", "--policy", "all")
    assert [row["policy"] for row in rows][0] == "tidepool" and len(rows) >= 6
    for row in rows:
        assert list(row)[:len(FIELDS)] == FIELDS
        assert 0 <= row["tokens_on_time"] <= 1 and 0 <= row["refused_share"] <= 1
        assert row["requests"] == rows[0]["requests"]  # all policies get the same requests
    assert not (tmp_path / "home" / "server.json").exists()
    again = simulated(tmp_path, "--workload", "poisson:0.1x20", "--devices", "4xH800", "--duration", "100")
    for row in (again[0], rows[0]):
        row.pop("wall_s")
    assert again[0] == rows[0]


def test_a_short_file_becomes_a_steady_state(tmp_path):
    file = str(ROOT / "bench/workloads/aegaeon/synth-10-0.1-1.0-1.0.csv")
    replayed = simulated(tmp_path, "--workload", file, "--devices", "4xH800")[0]
    assert replayed["requests"] == len(open(file).read().split("\n")) - 2 and replayed["models"] == 10
    steady = simulated(tmp_path, "--workload", file, "--devices", "4xH800", "--repeat-until", "900", "--split", "2:2",
                       "--models", "mix:sosp25")[0]
    assert abs(steady["requests"] - 900) < 4 * 30
    azure = simulated(tmp_path, "--workload", str(ROOT / "bench/workloads/azure-2023/AzureLLMInferenceTrace_code.csv"),
                      "--popularity", "zipf:1.0", "--model-count", "12", "--devices", "8xH800")[0]
    assert azure["requests"] == 8819 and azure["models"] == 12


def test_csv_svg_and_table_of_a_sweep(tmp_path):
    done = tidepool(tmp_path, "sim", "--workload", "poisson:0.1", "--sweep", "models=10..30:10", "--devices", "2xH800",
                    "--duration", "100", "--policy", "tidepool,lru", "--csv", str(tmp_path / "o.csv"), "--svg",
                    str(tmp_path / "o.svg"), "--seed", "1-2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("POLICY") and "worst of 2 seeds" in done.stdout
    lines = (tmp_path / "o.csv").read_text().splitlines()
    assert lines[0].split(",")[:len(FIELDS)] == FIELDS and len(lines) == 1 + 3 * 2
    svg = xml.dom.minidom.parse(str(tmp_path / "o.svg"))
    assert len(svg.getElementsByTagName("polyline")) == 2
    assert len(svg.getElementsByTagName("circle")) == 6


def test_wrong_use_is_told(tmp_path):
    for arguments, code, words in ((("--workload", "poisson:fast"), 1, "rate"), ((), 2, "--workload"),
                                   (("--workload", "/no/such/file"), 2, "cannot read"),
                                   (("--workload", "poisson:0.1x4", "--policy", "best"), 1, "known are"),
                                   (("--workload", "poisson:0.1x4", "--sweep", "models"), 2, "--sweep"),
                                   (("--workload", "poisson:0.1x4", "--devices", "4xTPU"), 1, "known are")):
        wrong = tidepool(tmp_path, "sim", *arguments)
        assert wrong.returncode == code and words in wrong.stderr, (arguments, wrong.stderr)


def test_plan_answers_with_sizes_money_and_a_picture(tmp_path):
    models = tmp_path / "models.json"
    models.write_text(json.dumps([{"name": "chat", "like": "qwen2.5-7b", "rate": 0.5},
                                  {"name": "rare", "like": "yi1.5-9b", "count": 5, "rate": 0.01}]))
    options = ("--models", str(models), "--duration", "300", "--devices", "H20,H100", "--slo", "ttft=10,tpot=0.1,share=.99",
               "--price", "H20=1.5,H100=3")
    done = tidepool(tmp_path, "plan", *options, "--json", "--svg", str(tmp_path / "plan.svg"))
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert [row["kind"] for row in plan["data"]] == ["H20", "H100"]
    for row, price in zip(plan["data"], (1.5, 3)):
        assert row["dedicated"]["devices"] == 6  # one each: none is loaded
        assert row["pooled"]["devices"] < 6 and row["pooled"]["tokens_on_time"] >= 0.99
        assert row["pooled"]["per_hour"] == price * row["pooled"]["devices"]
        assert len(row["placement"]) == row["pooled"]["devices"]
        assert row["pooled"]["at_risk"]["load"] == 2
    assert "H20 pooled" in (tmp_path / "plan.svg").read_text()
    text = tidepool(tmp_path, "plan", *options).stdout
    assert "SAVES" in text and "where the models lived" in text and re.search(r"H20 +dedicated +6 ", text)


def test_plan_reads_a_load(tmp_path):
    """A recorded load says how often which model is asked for how much; a formula says the same of models alike."""
    load = tmp_path / "load.jsonl"
    load.write_text("".join(json.dumps({"arrival_s": i * 0.5, "model": "ab"[i % 4 == 0], "prompt_tokens": 200, "output_tokens": 100}) + "\n"
                            for i in range(400)))

    def planned(*options):
        done = tidepool(tmp_path, "plan", *options, "--devices", "H100", "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    plan = planned("--load", str(load), "--models", "2xqwen2.5-7b")
    assert plan["models"] == 2 and abs(plan["requests_per_s"] - 2) < 0.1 and abs(plan["tokens_per_s"] - 200) < 10
    (row,) = plan["data"]
    assert row["kind"] == "H100" and row["dedicated"]["devices"] == 2 and 1 <= row["pooled"]["devices"] <= 2
    formula = ("poisson:0.05x4", "--duration", "200", "--seed", "3")
    first, other = planned("--load", *formula), planned("--workload", *formula)
    assert first["data"] == other["data"] and first["models"] == 4 and abs(first["requests_per_s"] - 0.2) < 0.15
    for wrong, says in ((str(tmp_path / "none.jsonl"), "cannot read"), ("poisson:often", "rate")):
        done = tidepool(tmp_path, "plan", "--load", wrong, "--devices", "H100")
        assert done.returncode != 0 and says in done.stderr, done.stderr


def test_progress_is_drawn_on_a_terminal_only(tmp_path):
    command = ("sim", "--workload", "poisson:0.1x70", "--devices", "16xH800", "--duration", "900", "--policy", "tidepool,lru", "--seed", "1-4")
    screen = Screen(tmp_path / "home", *command)
    drawn = screen.wait_for("POLICY", seconds=120).split("\r")
    lines = [line.replace("\x1b[K", "") for line in drawn if "%" in line]
    assert all(re.fullmatch(r".* +[█░]+ +\d+%(  [^/]* left)?", line) for line in lines), lines
    shares = [int(re.search(r"(\d+)%", line)[1]) for line in lines]
    assert shares == sorted(shares) and len(set(shares)) >= 3 and shares[-1] <= 100, shares
    assert drawn[-1] == "\x1b[K", "it has gone before the table comes"
    assert screen.end() == 0
    piped = tidepool(tmp_path, *command[:-2], "--seed", "1")
    assert piped.returncode == 0 and piped.stdout.startswith("POLICY") and not piped.stderr


@pytest.mark.skipif(not VOCABULARY.is_file(), reason="no vocabularies in TIDEPOOL_TEST_DATA")
def test_a_profile_of_this_machine_is_fitted_and_simulated(tmp_path):
    """`bench --profile` against a real model; what it writes is what `sim --profile` and `plan --profile` take."""
    (path,) = make_pool_models.make_models("pool-tiny", 1, "Q4_0", VOCABULARY, tmp_path)
    file = tmp_path / "here.json"
    with Server() as server:
        model = server.store(path)
        environment = {**os.environ, "TIDEPOOL_HOME": str(server.home)}
        done = subprocess.run([BINARY, "bench", model, "--profile", str(file)], capture_output=True, text=True, timeout=300, env=environment)
        assert done.returncode == 0, done.stderr
        assert re.search(r"prefill +[\d.]+ ms", done.stdout) and "decode" in done.stdout and f"--profile {file}" in done.stdout
        measured = server.ask("POST", "/api/v1/bench", {"model": model, "prompt_tokens": 512, "generate_tokens": 32, "batch": [8]})["data"]
    profile = json.loads(file.read_text())
    fitted, shape = profile["models"][model], profile["shapes"][model]
    assert profile["device"] == "here" and profile["arena_bytes"] > 1e6 and profile["copy_bytes_per_s"] > 1e8
    assert 3.9e6 < shape["weight_bytes"] < 3e7, shape
    assert shape["kv_token_bytes"] >= 4 * 2 * 2 * 64 * 2, "4 layers, keys and values of 2 heads of 64, 16-bit integers"
    # What it says of a prompt of 512 is what the server measures once more, give or take what else the machine does.
    row = next(row for row in measured if row["test"] == "prefill")
    told_s = (fitted["prefill"]["base_ms"] * 1e-3 + fitted["prefill"]["per_token_us"] * 1e-6 * 512 +
              fitted["prefill"]["per_token2_ns"] * 1e-9 * 512**2)
    assert told_s / 8 < row["seconds"] < told_s * 8, (told_s, row)
    (result,) = simulated(tmp_path, "--profile", str(file), "--devices", "1xhere", "--models", model, "--workload", "poisson:0.5x1",
                          "--duration", "60")
    assert result["requests"] > 10 and result["tokens_on_time"] > 0.9
    plan = tidepool(tmp_path, "plan", "--profile", str(file), "--devices", "here", "--models", model, "--load", "poisson:0.5x1",
                    "--duration", "60", "--json")
    assert plan.returncode == 0, plan.stderr
    (row,) = json.loads(plan.stdout)["data"]
    # (How many follows from how fast this machine was just now.)
    assert row["kind"] == "here" and row["dedicated"]["devices"] >= 1 and row["pooled"]["tokens_on_time"] >= 0.99


@pytest.fixture(scope="module")
def server():
    with Server("--simulated") as running:
        yield running


def post(server, path, body, timeout=120):
    key = (pathlib.Path(server.home) / "admin.key").read_text().strip()
    request = urllib.request.Request(server.url + path, json.dumps(body).encode(),
                                     {"Authorization": "Bearer " + key, "Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as problem:
        return problem.code, json.load(problem)


def test_endpoints_are_the_same_code_within_limits(server, tmp_path):
    status, reply = post(server, "/api/v1/simulate", {"workload": "poisson:0.1x20", "devices": "4xH800", "duration_s": 100})
    assert status == 200
    local = simulated(tmp_path, "--workload", "poisson:0.1x20", "--devices", "4xH800", "--duration", "100")[0]
    for row in (local, reply["data"][0]):
        row.pop("wall_s")
    assert reply["data"][0] == local
    status, reply = post(server, "/api/v1/plan", {"workload": "poisson:0.05x4", "devices": "H100", "duration_s": 100})
    assert status == 200 and reply["data"][0]["pooled"]["devices"] >= 1
    assert post(server, "/api/v1/simulate", {"workload": "poisson:9x100", "duration_s": 900})[0] == 413
    status, reply = post(server, "/api/v1/simulate", {"workload": "poisson:0.1x4", "nonsense": 1})
    assert status == 400 and reply["error"]["param"] == "nonsense"


def test_one_simulation_at_a_time(server):
    long = {"workload": "poisson:0.1x200", "devices": "64xH800", "duration_s": 9000, "seeds": [1]}
    replies = []
    threads = [threading.Thread(target=lambda: replies.append(post(server, "/api/v1/simulate", long))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    statuses = sorted(status for status, _ in replies)
    assert 409 in statuses and statuses[0] in (200, 409, 504), statuses
