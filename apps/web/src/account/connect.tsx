// Where programs find this server, in each dialect that it speaks, and the lines that make their clients come here.
import { useState } from "react";
import { useTranslation } from "react-i18next";
import { useModels } from "../api/queries";
import { CopyButton, cx, Section } from "../ui/kit";

export interface Dialect { name: string; base: string; text: string }

// The clients are those that the server's own tests run: openai, anthropic, ollama and dashscope, unmodified.
export function dialectsOf(origin: string, model: string, ranker: string | undefined): Dialect[] {
  const m = JSON.stringify(model);
  const list: Dialect[] = [
    { name: "OpenAI", base: `${origin}/v1`, text: `export OPENAI_BASE_URL=${origin}/v1\nexport OPENAI_API_KEY=$TIDEPOOL_API_KEY\n\n# pip install openai\nfrom openai import OpenAI\n\nclient = OpenAI()\nreply = client.chat.completions.create(model=${m}, messages=[{"role": "user", "content": "Hello!"}])\nprint(reply.choices[0].message.content)\n` },
    { name: "Anthropic", base: origin, text: `export ANTHROPIC_BASE_URL=${origin}\nexport ANTHROPIC_API_KEY=$TIDEPOOL_API_KEY\n\n# pip install anthropic\nimport anthropic\n\nclient = anthropic.Anthropic()\nreply = client.messages.create(model=${m}, max_tokens=256, messages=[{"role": "user", "content": "Hello!"}])\nprint(reply.content[0].text)\n` },
    { name: "Ollama", base: origin, text: `# pip install ollama\nimport os\n\nfrom ollama import Client\n\nclient = Client(host=${JSON.stringify(origin)}, headers={"Authorization": "Bearer " + os.environ["TIDEPOOL_API_KEY"]})\nreply = client.chat(model=${m}, messages=[{"role": "user", "content": "Hello!"}])\nprint(reply.message.content)\n` },
    { name: "Bailian", base: `${origin}/compatible-mode/v1`, text: `# OpenAI's clients: ${origin}/compatible-mode/v1\n# pip install dashscope\nimport os\n\nimport dashscope\n\ndashscope.base_http_api_url = ${JSON.stringify(`${origin}/api/v1`)}\ndashscope.api_key = os.environ["TIDEPOOL_API_KEY"]\nreply = dashscope.Generation.call(model=${m}, messages=[{"role": "user", "content": "Hello!"}], result_format="message")\nprint(reply.output.choices[0].message.content)\n` },
  ];
  if (ranker) list.push({ name: "Rerank", base: `${origin}/v1/rerank`, text: `curl ${origin}/v1/rerank \\\n  -H "Authorization: Bearer $TIDEPOOL_API_KEY" \\\n  -H "Content-Type: application/json" \\\n  -d '${JSON.stringify({ model: ranker, query: "What causes the tides?", documents: ["The Moon pulls on the sea.", "Bread needs flour."], top_n: 1 }).replaceAll("'", "'\\''")}'\n` });
  return list;
}

export function ConnectSection() {
  const { t } = useTranslation();
  const models = useModels();
  const [chosen, setChosen] = useState("OpenAI");
  const model = models.data?.find((one) => one.generates !== false && one.id !== "scripted")?.id ?? models.data?.find((one) => one.generates !== false)?.id ?? "smollm2:135m";
  const dialects = dialectsOf(location.origin, model, models.data?.find((one) => one.ranks)?.id);
  const shown = dialects.find((one) => one.name === chosen) ?? dialects[0]!;
  return (
    <Section title={t("connect.title")} note={t("connect.note")}>
      <div className="grid grid-cols-1 gap-x-8 gap-y-3 lg:grid-cols-[28rem_minmax(0,1fr)]">
        <ul className="divide-y divide-line self-start" aria-label={t("connect.bases")}>
          {dialects.map((one) => (
            <li key={one.name} className={cx("flex items-center gap-2 rounded-md px-2 py-1", one === shown && "bg-accent-soft")}>
              <button type="button" aria-pressed={one === shown} onClick={() => setChosen(one.name)} className={cx("w-20 shrink-0 text-left text-sm", one === shown ? "font-medium text-accent" : "hover:underline")}>{one.name}</button>
              <code className="min-w-0 grow truncate font-mono text-xs" title={one.base}>{one.base}</code>
              <CopyButton text={one.base} label={t("connect.copy", { name: one.name })} />
            </li>
          ))}
        </ul>
        <div className="relative min-w-0"><pre tabIndex={0} aria-label={t("connect.snippet", { name: shown.name })} className="max-h-72 overflow-auto rounded-md bg-sunken p-3 pr-10 font-mono text-xs leading-relaxed">{shown.text}</pre><div className="absolute top-1 right-1 rounded-md bg-sunken"><CopyButton text={shown.text} /></div></div>
      </div>
    </Section>
  );
}
