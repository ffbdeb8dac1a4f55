// The request as curl, Python and JavaScript that run as copied.
export interface Snippet { name: "curl" | "python" | "javascript"; text: string }

// Inside single quotes of a POSIX shell.
const shell = (text: string) => `'${text.replaceAll("'", `'\\''`)}'`;

// JSON with Python's names for its three constants. Strings are the same in both.
export function pythonLiteral(value: unknown, indent = "    "): string {
  const inner = `${indent}    `;
  if (value === null) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (Array.isArray(value)) return value.length === 0 ? "[]" : `[\n${value.map((item) => `${inner}${pythonLiteral(item, inner)},`).join("\n")}\n${indent}]`;
  if (typeof value === "object") return `{\n${Object.entries(value).map(([key, item]) => `${inner}${JSON.stringify(key)}: ${pythonLiteral(item, inner)},`).join("\n")}\n${indent}}`;
  return JSON.stringify(value);
}

const openaiFields = new Set(["model", "messages", "prompt", "input", "temperature", "top_p", "presence_penalty", "frequency_penalty", "seed", "stop", "max_tokens", "n", "logprobs", "top_logprobs", "stream"]);

// No client of OpenAI's knows ranking: plain HTTP, with what each language has.
function rankSnippets(origin: string, body: Record<string, unknown>): Snippet[] {
  const url = JSON.stringify(`${origin}/v1/rerank`);
  return [
    { name: "curl", text: `curl ${origin}/v1/rerank \\\n  -H "Authorization: Bearer $OPENAI_API_KEY" \\\n  -H "Content-Type: application/json" \\\n  -d ${shell(JSON.stringify(body, null, 2))}\n` },
    { name: "python", text: `import json\nimport os\nimport urllib.request\n\nrequest = urllib.request.Request(\n    ${url},\n    json.dumps(${pythonLiteral(body)}).encode(),\n    {"Content-Type": "application/json", "Authorization": "Bearer " + os.environ.get("OPENAI_API_KEY", "none")},\n)\nfor result in json.load(urllib.request.urlopen(request))["results"]:\n    print(result["relevance_score"], result["index"])\n` },
    { name: "javascript", text: `const reply = await fetch(${url}, {\n  method: "POST",\n  headers: { "Content-Type": "application/json", Authorization: \`Bearer \${process.env.OPENAI_API_KEY ?? "none"}\` },\n  body: JSON.stringify(${JSON.stringify(body, null, 2)}),\n});\nfor (const result of (await reply.json()).results) console.log(result.relevance_score, result.index);\n` },
  ];
}

export function snippetsOf(origin: string, path: string, body: Record<string, unknown>): Snippet[] {
  if (path === "/v1/rerank") return rankSnippets(origin, body);
  const call = path === "/v1/embeddings" ? "embeddings.create" : path === "/v1/completions" ? "completions.create" : "chat.completions.create";
  // The official Python client takes fields it does not know as extra_body.
  const plain = Object.fromEntries(Object.entries(body).filter(([key]) => openaiFields.has(key)));
  const extra = Object.fromEntries(Object.entries(body).filter(([key]) => !openaiFields.has(key)));
  const python = Object.entries(plain).map(([key, value]) => `    ${key}=${pythonLiteral(value)},`);
  if (Object.keys(extra).length > 0) python.push(`    extra_body=${pythonLiteral(extra)},`);
  const show = path === "/v1/embeddings" ? "data[0].embedding" : path === "/v1/completions" ? "choices[0].text" : "choices[0].message.content";
  return [
    { name: "curl", text: `curl ${origin}${path} \\\n  -H "Authorization: Bearer $OPENAI_API_KEY" \\\n  -H "Content-Type: application/json" \\\n  -d ${shell(JSON.stringify(body, null, 2))}\n` },
    { name: "python", text: `# pip install openai\nimport os\n\nfrom openai import OpenAI\n\nclient = OpenAI(base_url=${JSON.stringify(`${origin}/v1`)}, api_key=os.environ.get("OPENAI_API_KEY", "none"))\nreply = client.${call}(\n${python.join("\n")}\n)\nprint(reply.${show})\n` },
    { name: "javascript", text: `// npm install openai\nimport OpenAI from "openai";\n\nconst client = new OpenAI({ baseURL: ${JSON.stringify(`${origin}/v1`)}, apiKey: process.env.OPENAI_API_KEY ?? "none" });\nconst reply = await client.${call}(${JSON.stringify(body, null, 2)});\nconsole.log(reply.${show});\n` },
  ];
}
