"""Reranking and embedding families behind the real server: small random models with their tokenizers (made by
tools/make_pooling_fixtures.py, which has transformers' answers), asked by HTTP and by Bailian's unmodified client."""

import base64
import json
import pathlib
import shutil
import struct
import time

import pytest

from server_process import Server

POOLED = pathlib.Path(__file__).resolve().parent.parent / "src/platform/inference/testdata/pooled"
# Not the fixtures' tolerance: the server keeps KV in 16-bit integers (2^-15 of a head's largest), which two layers pass on.
NEAR = 0.01


@pytest.fixture(scope="module")
def server():
    with Server() as running:
        yield running


def expected(name):
    return json.loads((POOLED / name / "expected.json").read_text())


def store(server, name, tmp_path):
    folder = tmp_path / name
    shutil.copytree(POOLED / name, folder, ignore=shutil.ignore_patterns("*.gguf", "expected.json"))
    return server.store(folder)


@pytest.mark.parametrize("name", ["cross_encoder", "bge_reranker", "qwen3_reranker", "qwen3_reranker_rows"])
def test_ranks_as_transformers(server, name, tmp_path):
    """The last is a causal model as published, which ranks by its "yes" and "no"."""
    model, wanted = store(server, name, tmp_path), expected(name)
    assert server.ask("GET", f"/v1/models/{model}")["capabilities"] == ["rerank"]
    for query, scores in zip(wanted["queries"], wanted["scores"]):
        reply = server.ask("POST", "/v1/rerank", {"model": model, "query": query, "documents": wanted["documents"]})
        found = {item["index"]: item["relevance_score"] for item in reply["results"]}
        assert sorted(found) == list(range(len(scores)))
        assert all(abs(found[i] - score) < NEAR for i, score in enumerate(scores)), (found, scores)
        ordered = [item["relevance_score"] for item in reply["results"]]
        assert ordered == sorted(ordered, reverse=True)
        best = server.ask("POST", "/v2/rerank", {"model": model, "query": query, "top_n": 1, "return_documents": True,
                                                 "documents": [{"text": text} for text in wanted["documents"]]})
        assert best["results"] == [{**reply["results"][0], "document": {"text": wanted["documents"][reply["results"][0]["index"]]}}]
    tokens = sum(map(len, wanted["tokens"][: len(wanted["documents"])]))
    server.ask("POST", "/rerank", {"model": model, "query": wanted["queries"][0], "documents": wanted["documents"]})
    deadline = time.monotonic() + 20
    while True:  # rows are durable at once, and in the store soon after
        rows = [row for row in server.ask("GET", "/api/v1/requests?limit=50")["data"] if row["endpoint"] == "rerank"]
        if any(row["model"] == model and row["prompt_tokens"] == tokens for row in rows):
            break  # metered by the tokens that were read
        assert time.monotonic() < deadline, rows
        time.sleep(0.05)


def test_what_does_not_rank_says_so(server, tmp_path):
    embedder, ranker = store(server, "bge", tmp_path), store(server, "cross_encoder", tmp_path)
    with pytest.raises(RuntimeError, match="400.*rerank_unsupported"):
        server.ask("POST", "/v1/rerank", {"model": embedder, "query": "q", "documents": ["a"]})
    with pytest.raises(RuntimeError, match="400.*embeddings_unsupported"):
        server.ask("POST", "/v1/embeddings", {"model": ranker, "input": "a"})
    with pytest.raises(RuntimeError, match="400.*embeddings_only"):
        server.ask("POST", "/v1/chat/completions", {"model": ranker, "messages": [{"role": "user", "content": "x"}]})
    with pytest.raises(RuntimeError, match="400.*context_length_exceeded"):
        server.ask("POST", "/v1/rerank", {"model": ranker, "query": "sea " * 100, "documents": ["a"]})


@pytest.mark.parametrize("name", ["bge", "qwen3_embedding"])
def test_embeds_as_transformers(server, name, tmp_path):
    model, wanted = store(server, name, tmp_path), expected(name)
    reply = server.ask("POST", "/v1/embeddings", {"model": model, "input": wanted["texts"]})
    for item, vector in zip(reply["data"], wanted["vectors"]):
        assert max(abs(a - b) for a, b in zip(item["embedding"], vector)) < NEAR
    assert reply["usage"]["prompt_tokens"] == sum(map(len, wanted["tokens"]))
    packed = server.ask("POST", "/v1/embeddings", {"model": model, "input": wanted["texts"][0], "dimensions": 8, "encoding_format": "base64"})
    short = struct.unpack("<8f", base64.b64decode(packed["data"][0]["embedding"]))
    length = sum(x * x for x in reply["data"][0]["embedding"][:8]) ** 0.5
    assert max(abs(a - b / length) for a, b in zip(short, reply["data"][0]["embedding"])) < 1e-5


def test_instructions_before_queries(server, tmp_path):
    """Oracle: get_detailed_instruct and the prompt "query" of Qwen3-Embedding's model card, written out as input."""
    qwen, bge = store(server, "qwen3_embedding", tmp_path), store(server, "bge", tmp_path)

    def openai(model=qwen, **fields):
        return server.ask("POST", "/v1/embeddings", {"model": model, "input": "bread", **fields})["data"][0]["embedding"]

    def ollama(model=qwen, **fields):
        return server.ask("POST", "/api/embed", {"model": model, "input": "bread", **fields})["embeddings"][0]

    search = "Given a web search query, retrieve relevant passages that answer the query"
    for embed in (openai, ollama):
        plain, own = embed(), embed(input="Instruct: find loaves\nQuery:bread")
        query = embed(input=f"Instruct: {search}\nQuery:bread")
        assert plain != own and embed(instruction="find loaves") == own and embed(instruct="find loaves") == own
        assert embed(prompt_name="query") == embed(input_type="search_query") == embed(task="retrieval.query") == query
        assert embed(prompt_name="document") == embed(input_type="passage") == plain
        with pytest.raises(RuntimeError, match="400.*instruction"):
            embed(bge, instruction="find loaves")
        assert embed(bge, input_type="query") == embed(bge)


def test_bailians_client(server, tmp_path):
    dashscope = pytest.importorskip("dashscope")
    dashscope.base_http_api_url, dashscope.api_key = server.url + "/api/v1", server.key
    model, wanted = store(server, "cross_encoder", tmp_path), expected("cross_encoder")
    reply = dashscope.TextReRank.call(model=model, query=wanted["queries"][0], documents=wanted["documents"], top_n=2, return_documents=True)
    assert reply.status_code == 200, reply.message
    scores = wanted["scores"][0]
    best = max(range(len(scores)), key=scores.__getitem__)
    assert len(reply.output.results) == 2 and reply.usage.total_tokens > 0
    assert reply.output.results[0].index == best and abs(reply.output.results[0].relevance_score - scores[best]) < NEAR
    assert reply.output.results[0]["document"]["text"] == wanted["documents"][best]
    refused = dashscope.TextReRank.call(model="no-such-model", query="q", documents=["a"])
    assert (refused.status_code, refused.code) == (404, "ModelNotFound")
