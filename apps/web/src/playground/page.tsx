import { Square } from "lucide-react";
import { useEffect, useMemo, useRef, useState } from "react";
import { useTranslation } from "react-i18next";
import { useSearchParams } from "react-router";
import { postJson, type ReplyOf } from "../api/client";
import { useModels } from "../api/queries";
import { AnswerFigures, AnswerView } from "../chat/compare";
import { firstModel, ModelPicker, NoModels } from "../chat/model_picker";
import { SamplingForm } from "../chat/settings_panel";
import { emptyStream, streamChat, type StreamState, type TokenPiece } from "../chat/stream";
import type { SamplingSettings } from "../chat/types";
import { formatSeconds, significant } from "../ui/format";
import { Button, CopyButton, cx, ErrorNote, Field, Input, Page, Section, TextArea, Tip } from "../ui/kit";
import { snippetsOf } from "./snippets";

type Mode = "chat" | "completion" | "embedding" | "rerank";
const modes: Mode[] = ["chat", "completion", "embedding", "rerank"];
const paths = { chat: "/v1/chat/completions", completion: "/v1/completions", embedding: "/v1/embeddings", rerank: "/v1/rerank" } as const;

// With the texts they are of: those in the form may be others by then.
interface Ranking { documents: string[]; results: ReplyOf<"/v1/rerank", "post">["results"]; tokens: number; seconds: number }
interface Embeddings { texts: string[]; vectors: number[][]; tokens: number; seconds: number }

export function PlaygroundPage() {
  const { t } = useTranslation();
  const [search, setSearch] = useSearchParams();
  const models = useModels(5_000);
  const named = models.data?.find((one) => one.id === search.get("model"));
  const [picked, setMode] = useState<Mode | null>(null);
  // A model's own page leads here with its name: then what it does is what is tried.
  const mode = picked ?? (named?.ranks ? "rerank" : named?.generates === false ? "embedding" : "chat");
  const fitting = models.data?.filter((one) => (mode === "rerank" ? one.ranks === true : mode === "embedding" ? one.generates === false && one.ranks !== true : one.generates !== false));
  const model = search.get("model") ?? firstModel(fitting, null);
  const [system, setSystem] = useState("");
  const [text, setText] = useState("");
  const [query, setQuery] = useState("");
  const [extraText, setExtraText] = useState("");
  const extra = useMemo(() => readFields(extraText), [extraText]);
  const [sampling, setSampling] = useState<SamplingSettings>({});
  const [logprobs, setLogprobs] = useState(true);
  const [answer, setAnswer] = useState<StreamState | null>(null);
  const [embeddings, setEmbeddings] = useState<Embeddings | null>(null);
  const [ranking, setRanking] = useState<Ranking | null>(null);
  const lines = text.split("\n").filter((line) => line.trim() !== "");
  const [error, setError] = useState<unknown>(null);
  const [language, setLanguage] = useState<"curl" | "python" | "javascript">("curl");
  const abort = useRef<AbortController | null>(null);
  useEffect(() => () => abort.current?.abort(), []);

  const body = useMemo<Record<string, unknown>>(() => {
    const lines = text.split("\n").filter((line) => line.trim() !== "");
    if (mode === "embedding") return { model, input: lines };
    if (mode === "rerank") return { model, query, documents: lines };
    if (mode === "completion") return { model, prompt: text, ...sampling, ...extra.fields, ...(logprobs ? { logprobs: 5 } : {}) };
    const more = { ...sampling, ...extra.fields, ...(logprobs ? { logprobs: true, top_logprobs: 5 } : {}) };
    return { model, messages: [...(system.trim() ? [{ role: "system", content: system }] : []), { role: "user", content: text }], ...more };
  }, [mode, model, system, text, query, sampling, extra.fields, logprobs]);
  const snippets = snippetsOf(location.origin, paths[mode], body);
  const snippet = snippets.find((one) => one.name === language)!;
  const busy = answer?.state === "waiting" || answer?.state === "running";

  const run = async () => {
    abort.current?.abort();
    const control = new AbortController();
    abort.current = control;
    setError(null);
    setEmbeddings(null);
    setRanking(null);
    if (mode === "chat" || mode === "completion") {
      setAnswer(emptyStream);
      return streamChat(paths[mode], body, control.signal, (state) => { if (abort.current === control) setAnswer(state); });
    }
    setAnswer(null);
    const started = performance.now();
    try {
      if (mode === "rerank") {
        const reply = await postJson(paths.rerank, body, { signal: control.signal });
        return setRanking({ documents: lines, results: reply.results, tokens: reply.usage.total_tokens, seconds: (performance.now() - started) / 1e3 });
      }
      const reply = await postJson(paths.embedding, body, { signal: control.signal });
      setEmbeddings({ texts: lines, vectors: reply.data.flatMap((item) => (Array.isArray(item.embedding) ? [item.embedding] : [])), tokens: reply.usage.prompt_tokens, seconds: (performance.now() - started) / 1e3 });
    } catch (problem) {
      if (!control.signal.aborted) setError(problem);
    }
  };
  return (
    <Page title={t("nav.playground")} lead={t("playground.lead")}>
      <div className="grid grid-cols-1 gap-x-8 gap-y-6 lg:grid-cols-[minmax(0,1fr)_22rem]">
        <div className="min-w-0 space-y-3">
          <div className="flex flex-wrap items-center gap-2">
            <div role="radiogroup" aria-label={t("playground.kind")} className="inline-flex rounded-md border border-line-strong p-0.5">
              {modes.map((one) => (
                <button key={one} type="button" role="radio" aria-checked={mode === one} onClick={() => { setMode(one); setAnswer(null); setEmbeddings(null); setRanking(null); setError(null); setSearch({}, { replace: true }); }}
                  className={cx("rounded px-2.5 py-1 text-sm", mode === one ? "bg-accent-soft font-medium text-accent" : "text-soft hover:text-ink")}>{t(`playground.${one}`)}</button>
              ))}
            </div>
            <ModelPickerOrSelect mode={mode} model={model} onChange={(next) => setSearch({ model: next }, { replace: true })} ids={(fitting ?? []).map((one) => one.id ?? "")} />
          </div>
          {mode === "chat" && <Field label={t("chat.systemPrompt")}>{(id) => <TextArea id={id} rows={2} className="min-h-12" value={system} onChange={(event) => setSystem(event.target.value)} />}</Field>}
          {mode === "rerank" && <Field label={t("playground.query")}>{(id) => <Input id={id} value={query} onChange={(event) => setQuery(event.target.value)} />}</Field>}
          <Field label={t(mode === "embedding" ? "playground.texts" : mode === "rerank" ? "playground.documents" : mode === "chat" ? "playground.user" : "playground.prompt")} help={mode === "embedding" ? t("playground.textsHelp") : mode === "rerank" ? t("playground.documentsHelp") : undefined}>
            {(id, note) => <TextArea id={id} aria-describedby={note} rows={6} value={text} onChange={(event) => setText(event.target.value)} onKeyDown={(event) => { if (event.key === "Enter" && (event.metaKey || event.ctrlKey)) void run(); }} />}
          </Field>
          <div className="flex items-center gap-2">
            <Button kind="primary" disabled={text.trim() === "" || model === "" || busy || extra.bad} onClick={() => void run()}>{t("compare.run")}</Button>
            {busy && <Button onClick={() => abort.current?.abort()}><Square className="size-3.5" fill="currentColor" aria-hidden />{t("chat.stop")}</Button>}
          </div>
          {models.data?.length === 0 && <p className="text-sm text-soft"><NoModels /></p>}
          {models.error != null && <ErrorNote error={models.error} retry={() => void models.refetch()} />}
          {error != null && <ErrorNote error={error} />}
          {answer && (
            <Section title={t("playground.answer")}>
              {answer.tokens.length > 0 ? (
                <>
                  {answer.reasoning && <p className="mb-2 text-sm text-faint">{t("playground.withReasoning")}</p>}
                  <TokenView tokens={answer.tokens} />
                  <AnswerFigures answer={answer} />
                </>
              ) : <AnswerView answer={answer} />}
              {answer.tokens.length > 0 && answer.state === "failed" && <ErrorNote error={answer.error} />}
            </Section>
          )}
          {embeddings && <EmbeddingView embeddings={embeddings} />}
          {ranking && <RankingView ranking={ranking} />}
        </div>
        <div className="min-w-0 space-y-5">
          {(mode === "chat" || mode === "completion") && (
            <details open>
              <summary className="mb-3 font-semibold">{t("playground.parameters")}</summary>
              <label className="mb-3 flex items-center gap-2 text-sm"><input type="checkbox" className="accent-(--accent)" checked={logprobs} onChange={(event) => setLogprobs(event.target.checked)} />{t("playground.logprobs")}</label>
              <SamplingForm value={sampling} onChange={setSampling} />
              <div className="mt-3"><Field label={t("sampling.stop")} help={t("samplingHelp.stop")}>{(id, note) => <Input id={id} aria-describedby={note} value={[sampling.stop ?? []].flat().join("\\n")} onChange={(event) => {
                const next = { ...sampling };
                const list = event.target.value.split("\\n").filter(Boolean);
                if (list.length > 0) next.stop = list; else delete next.stop;
                setSampling(next);
              }} />}</Field></div>
              <div className="mt-3"><Field label={t("playground.moreFields")} help={t("playground.moreFieldsHelp")} error={extra.bad ? t("playground.badFields") : null}>{(id, note) => <TextArea id={id} aria-describedby={note} aria-invalid={extra.bad} rows={3} className="font-mono" placeholder={'{"n": 2, "response_format": {"type": "json_object"}}'} value={extraText} onChange={(event) => setExtraText(event.target.value)} />}</Field></div>
            </details>
          )}
          <section aria-label={t("playground.asCode")}>
            <div className="mb-2 flex items-center gap-1">
              <h2 className="mr-auto">{t("playground.asCode")}</h2>
              {snippets.map((one) => <button key={one.name} type="button" aria-pressed={language === one.name} onClick={() => setLanguage(one.name)} className={cx("rounded px-2 py-1 text-xs", language === one.name ? "bg-accent-soft font-medium text-accent" : "text-soft hover:text-ink")}>{{ curl: "curl", python: "Python", javascript: "JavaScript" }[one.name]}</button>)}
              <CopyButton text={snippet.text} />
            </div>
            <pre tabIndex={0} className="max-h-96 overflow-auto rounded-md bg-sunken p-3 font-mono text-xs leading-relaxed">{snippet.text}</pre>
          </section>
        </div>
      </div>
    </Page>
  );
}

function ModelPickerOrSelect({ mode, model, ids, onChange }: { mode: Mode; model: string; ids: string[]; onChange: (model: string) => void }) {
  const { t } = useTranslation();
  if (mode === "chat" || mode === "completion") return <ModelPicker value={model} onChange={onChange} />;
  if (ids.length === 0) return <span className="text-sm text-faint">{t("playground.noEmbedder")}</span>;
  return <select aria-label={t("chat.model")} value={model} onChange={(event) => onChange(event.target.value)} className="min-h-8 rounded-md border border-line-strong bg-panel px-2 text-sm">{ids.map((id) => <option key={id}>{id}</option>)}</select>;
}

// Every other field of the API, as JSON. model, messages and stream are the page's own.
export function readFields(text: string): { fields: Record<string, unknown>; bad: boolean } {
  if (text.trim() === "") return { fields: {}, bad: false };
  try {
    const value = JSON.parse(text) as unknown;
    if (typeof value !== "object" || value === null || Array.isArray(value)) return { fields: {}, bad: true };
    const { model: _, messages: __, prompt: ___, stream: ____, ...fields } = value as Record<string, unknown>;
    return { fields, bad: false };
  } catch {
    return { fields: {}, bad: true };
  }
}

// How sure the model was: from the accent (certain) over grey to red (a guess).
export function sureness(logprob: number | null): string {
  if (logprob === null) return "bg-transparent";
  const p = Math.exp(logprob);
  return p > 0.9 ? "bg-transparent" : p > 0.5 ? "bg-accent-soft" : p > 0.2 ? "bg-warn-soft" : "bg-bad-soft";
}

export function TokenView({ tokens }: { tokens: TokenPiece[] }) {
  const { t } = useTranslation();
  return (
    <>
      <p className="rounded-md border border-line p-3 leading-7 break-words whitespace-pre-wrap" data-testid="tokens">
        {tokens.map((token, index) => (
          <Tip key={index} text={
            <span className="block font-mono">
              {(token.top.length > 0 ? token.top : [token]).map((top, at) => <span key={at} className={cx("flex justify-between gap-4", top.text === token.text && "font-bold")}><span>{JSON.stringify(top.text)}</span>{top.logprob !== null && <span>{significant(100 * Math.exp(top.logprob), 3)} %</span>}</span>)}
            </span>}>
            <span data-token data-logprob={token.logprob ?? undefined} className={cx("rounded-sm border-r border-line hover:outline hover:outline-accent", sureness(token.logprob))}>{token.text}</span>
          </Tip>
        ))}
      </p>
      <ul className="mt-1 flex flex-wrap gap-x-4 text-xs text-faint">
        {([["bg-transparent", "> 90 %"], ["bg-accent-soft", "50–90 %"], ["bg-warn-soft", "20–50 %"], ["bg-bad-soft", "< 20 %"]] as const).map(([look, label]) => <li key={look} className="inline-flex items-center gap-1"><span aria-hidden className={cx("size-3 rounded-sm border border-line", look)} />{label}</li>)}
        <li>{t("playground.hover")}</li>
      </ul>
    </>
  );
}

function RankingView({ ranking }: { ranking: Ranking }) {
  const { t } = useTranslation();
  return (
    <Section title={t("playground.ranking")} note={t("playground.rankingNote", { tokens: ranking.tokens, time: formatSeconds(ranking.seconds) })}>
      <ol className="divide-y divide-line text-sm" data-testid="ranking">
        {ranking.results.map((result) => (
          <li key={result.index} className="flex items-center gap-3 py-1.5">
            <span className="w-16 shrink-0 text-right">{result.relevance_score.toFixed(4)}</span>
            <span aria-hidden className="h-1.5 w-24 shrink-0 overflow-hidden rounded-full bg-sunken"><span className="block h-full bg-accent" style={{ width: `${Math.max(0, Math.min(1, result.relevance_score)) * 100}%` }} /></span>
            <span className="min-w-0 break-words">{ranking.documents[result.index]}</span>
          </li>
        ))}
      </ol>
    </Section>
  );
}

function EmbeddingView({ embeddings }: { embeddings: Embeddings }) {
  const { t } = useTranslation();
  const cosine = (a: number[], b: number[]) => {
    let dot = 0, x = 0, y = 0;
    for (let i = 0; i < a.length; ++i) { dot += a[i]! * b[i]!; x += a[i]! ** 2; y += b[i]! ** 2; }
    return dot / Math.sqrt(x * y || 1);
  };
  return (
    <Section title={t("playground.similarity")} note={t("playground.embeddingNote", { dimensions: embeddings.vectors[0]?.length ?? 0, tokens: embeddings.tokens, time: formatSeconds(embeddings.seconds) })}>
      <div className="overflow-x-auto" tabIndex={0} role="region" aria-label={t("playground.similarity")}>
        <table className="text-sm">
          <tbody>
            {embeddings.vectors.map((a, row) => (
              <tr key={row}>
                <th scope="row" className="max-w-60 truncate py-1 pr-3 text-left font-normal" title={embeddings.texts[row]}>{embeddings.texts[row]}</th>
                {embeddings.vectors.map((b, column) => {
                  const value = cosine(a, b);
                  return <td key={column} className="min-w-14 px-2 py-1 text-center" style={{ backgroundColor: `color-mix(in oklch, var(--accent) ${Math.max(0, value) * 40}%, transparent)` }}>{value.toFixed(2)}</td>;
                })}
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </Section>
  );
}
