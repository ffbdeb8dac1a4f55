// The official `openai` package for JavaScript, unmodified, against the server whose URL and key come as arguments.
// Prints one line a check; exits with 1 at the first that fails.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [url, key, modules, realModel] = process.argv.slice(2);
const require = createRequire(pathToFileURL(modules + "/package.json"));
const { OpenAI, NotFoundError, BadRequestError, AuthenticationError, APIError } = require("openai");

const model = "scripted";
const client = new OpenAI({ baseURL: url + "/v1", apiKey: key, maxRetries: 0, timeout: 60000 });
const ask = (content) => [{ role: "user", content }];

async function idle() {
  for (let i = 0; i < 500; ++i) {
    const reply = await fetch(url + "/api/v1/models", { headers: { authorization: `Bearer ${key}` } });
    const entry = (await reply.json()).data.find((m) => m.id === model);
    const { running = 0, waiting = 0, kv_blocks_used = 0 } = entry.engine ?? {};
    if (running + waiting + kv_blocks_used === 0) return;
    await new Promise((done) => setTimeout(done, 20));
  }
  assert.fail("the engine is still busy");
}

const checks = {
  async models() {
    const ids = [];
    for await (const entry of client.models.list()) ids.push(entry.id);
    assert(ids.includes(model));
    await assert.rejects(client.models.retrieve("org/none:Q4"), NotFoundError);
  },
  async chat() {
    const { data, response } = await client.chat.completions
      .create({ model, messages: ask("[[say:hello there]]") })
      .withResponse();
    assert.equal(data.choices[0].message.content, "hello there");
    assert.equal(data.choices[0].finish_reason, "stop");
    assert(data.usage.total_tokens > data.usage.prompt_tokens);
    assert(response.headers.get("x-request-id"));
  },
  async streaming() {
    const stream = await client.chat.completions.create({
      model, messages: ask("[[think:hm]][[say:déjà 漢字 😀]]"), stream: true, stream_options: { include_usage: true },
    });
    let text = "", reasoning = "", usage = null;
    for await (const chunk of stream) {
      text += chunk.choices[0]?.delta.content ?? "";
      reasoning += chunk.choices[0]?.delta.reasoning_content ?? "";
      usage = chunk.usage ?? usage;
    }
    assert.equal(text, "déjà 漢字 😀");
    assert.equal(reasoning, "hm");
    assert(usage.completion_tokens_details.reasoning_tokens > 0);
  },
  async streamHelper() {
    const stream = client.chat.completions.stream({ model, messages: ask("[[say:helper]]") });
    assert.equal(await stream.finalContent(), "helper");
  },
  async choicesAndLogprobs() {
    const answer = await client.chat.completions.create({
      model, messages: ask("[[say:abcdef]]"), n: 2, max_tokens: 3, logprobs: true, top_logprobs: 2,
    });
    assert.deepEqual(answer.choices.map((choice) => choice.message.content), ["abc", "abc"]);
    assert.equal(answer.choices[1].logprobs.content.length, 3);
    assert.equal(answer.choices[0].finish_reason, "length");
  },
  async completions() {
    const answer = await client.completions.create({ model, prompt: ["[[say:a]]", "[[say:b]]"], max_tokens: 20 });
    assert.deepEqual(answer.choices.map((choice) => choice.text), ["a", "b"]);
  },
  async errors() {
    await assert.rejects(client.chat.completions.create({ model: "none", messages: ask("x") }), NotFoundError);
    await assert.rejects(client.chat.completions.create({ model, messages: ask("x"), top_p: 7 }), (error) => {
      assert(error instanceof BadRequestError);
      assert.equal(error.param, "top_p");
      assert(error.requestID);
      return true;
    });
    const stranger = new OpenAI({ baseURL: url + "/v1", apiKey: "tp-wrong", maxRetries: 0 });
    await assert.rejects(stranger.models.list(), AuthenticationError);
    const failing = await client.chat.completions.create({
      model, messages: ask("[[fail_after:3]][[say:abcdefghij]]"), stream: true,
    });
    await assert.rejects(async () => {
      for await (const _ of failing);
    }, APIError);
  },
  async toolCalls() {
    const tools = [{ type: "function", function: { name: "weather", parameters: {
      type: "object", properties: { city: { type: "string" } }, required: ["city"] } } }];
    const messages = ask('[[say:Look.<tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}</tool_call>]]');
    const whole = await client.chat.completions.create({ model, messages, tools });
    assert.equal(whole.choices[0].finish_reason, "tool_calls");
    assert.equal(whole.choices[0].message.content, "Look.");
    assert.deepEqual(JSON.parse(whole.choices[0].message.tool_calls[0].function.arguments), { city: "Oslo" });
    // The client's own loop: it parses the stream, calls the function, sends the result and goes on.
    const asked = [];
    const runner = client.chat.completions.runTools({
      model, stream: true, messages: ask('[[say:<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>]]'),
      tools: [{ type: "function", function: {
        name: "weather", parameters: tools[0].function.parameters, parse: JSON.parse,
        function: ({ city }) => { asked.push(city); return "[[say:Sunny.]]"; } } }],
    });
    assert.equal(await runner.finalContent(), "Sunny.");
    assert.deepEqual(asked, ["Rome"]);
  },
  async structuredOutput() {
    const schema = { type: "object", properties: { n: { type: "integer" }, s: { type: "string", maxLength: 9 } },
      required: ["n", "s"], additionalProperties: false };
    const answer = await client.chat.completions.create({
      model, messages: ask('[[say:{"n": 12, "s": "deep blue sea"}]]'),
      response_format: { type: "json_schema", json_schema: { name: "x", strict: true, schema } },
    });
    const value = JSON.parse(answer.choices[0].message.content);
    assert.equal(value.n, 12);
    assert(value.s.length <= 9);
  },
  async responses() {
    const first = await client.responses.create({ model, input: "[[think:hm]][[say:hello there]]" });
    assert.equal(first.output_text, "hello there");
    assert.equal(first.status, "completed");
    assert(first.usage.output_tokens_details.reasoning_tokens > 0);
    const second = await client.responses.create({
      model, previous_response_id: first.id, input: "[[say:and on]]",
    });
    assert.equal(second.output_text, "and on");
    assert(second.usage.input_tokens > first.usage.input_tokens);
    // Streamed through the client's own accumulator.
    const kinds = [];
    const stream = client.responses.stream({ model, input: "[[say:déjà 漢字 😀]]" }).on("event", (event) => kinds.push(event.type));
    assert.equal((await stream.finalResponse()).output_text, "déjà 漢字 😀");
    assert.equal(kinds[0], "response.created");
    assert(kinds.includes("response.output_text.delta"));
    assert.equal(kinds.at(-1), "response.completed");
    const tools = [{ type: "function", name: "weather", strict: null, parameters: {
      type: "object", properties: { city: { type: "string" } }, required: ["city"] } }];
    const asked = await client.responses.create({ model, tools,
      input: '[[say:<tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}</tool_call>]]' });
    const call = asked.output.find((item) => item.type === "function_call");
    assert.deepEqual(JSON.parse(call.arguments), { city: "Oslo" });
    const parsed = await client.responses.parse({ model, input: '[[say:{"n": 12}]]', text: { format: {
      type: "json_schema", name: "x", strict: true, schema: {
        type: "object", properties: { n: { type: "integer" } }, required: ["n"], additionalProperties: false } } } });
    assert.deepEqual(parsed.output_parsed, { n: 12 });
    assert.equal((await client.responses.retrieve(first.id)).id, first.id);
    await client.responses.delete(first.id);
    await assert.rejects(client.responses.retrieve(first.id), NotFoundError);
  },
  async aborting() {
    const stream = await client.chat.completions.create({
      model, messages: ask("[[stall_ms:20]][[tokens:100000]]"), max_tokens: 2000, stream: true,
    });
    let seen = 0;
    for await (const _ of stream) if (++seen === 3) break; // ends the loop: the SDK aborts the request
    await idle();
  },
  async manyAtOnce() {
    const answers = await Promise.all(
      Array.from({ length: 30 }, (_, i) =>
        client.chat.completions.create({ model, messages: ask(`[[say:answer ${i}]]`) })));
    answers.forEach((answer, i) => assert.equal(answer.choices[0].message.content, `answer ${i}`));
  },
};

if (realModel) {
  checks.aRealModelUnderSchema = async () => {
    const schema = { type: "object", properties: { city: { type: "string", maxLength: 20 }, by_the_sea: { type: "boolean" } },
      required: ["city", "by_the_sea"], additionalProperties: false };
    const answer = await client.chat.completions.parse({
      model: realModel, messages: ask("Name a city."), seed: 3, max_tokens: 200,
      response_format: { type: "json_schema", json_schema: { name: "city", strict: true, schema } },
    });
    const { parsed } = answer.choices[0].message;
    assert(parsed.city.length <= 20 && typeof parsed.by_the_sea === "boolean");
    const made = await client.responses.parse({ model: realModel, input: "Name a city.", max_output_tokens: 200,
      text: { format: { type: "json_schema", name: "city", strict: true, schema } } });
    assert.deepEqual(Object.keys(made.output_parsed), ["city", "by_the_sea"]);
    const forced = await client.chat.completions.create({
      model: realModel, messages: ask("Name a city."), seed: 3, max_tokens: 200, tool_choice: "required", parallel_tool_calls: false,
      tools: [{ type: "function", function: { name: "city", strict: true, parameters: schema } }],
    });
    assert.deepEqual(Object.keys(JSON.parse(forced.choices[0].message.tool_calls[0].function.arguments)), ["city", "by_the_sea"]);
  };
}

for (const [name, check] of Object.entries(checks)) {
  try {
    await check();
    console.log(`ok ${name}`);
  } catch (problem) {
    console.error(`failed ${name}:`, problem);
    process.exit(1);
  }
}
