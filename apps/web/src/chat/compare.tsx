import { Plus, Square, X } from "lucide-react";
import { useEffect, useRef, useState } from "react";
import { useTranslation } from "react-i18next";
import { formatCount, formatSeconds, significant } from "../ui/format";
import { Button, CopyButton, ErrorNote, Field, IconButton, Page, TextArea } from "../ui/kit";
import { recall, remember } from "../ui/store";
import { CostText } from "./cost";
import { MarkdownText, ProgressLine, Reasoning } from "./message";
import { ModelPicker, NoModels, useChatModels } from "./model_picker";
import { SamplingForm } from "./settings_panel";
import { emptyStream, streamChat, type StreamState } from "./stream";
import type { SamplingSettings } from "./types";

const most = 4;

export function ComparePage() {
  const { t } = useTranslation();
  const { data: models, error: modelsError, refetch } = useChatModels();
  const [chosen, setChosen] = useState<string[]>([]);
  const [prompt, setPrompt] = useState(() => recall("draft.compare") ?? "");
  const [sampling, setSampling] = useState<SamplingSettings>({});
  const [answers, setAnswers] = useState<Record<number, StreamState>>({});
  const abort = useRef<AbortController | null>(null);
  useEffect(() => () => abort.current?.abort(), []);
  const columns = chosen.length > 0 ? chosen : (models ?? []).slice(0, 2).map((model) => model.id ?? "");
  const busy = Object.values(answers).some((answer) => answer.state === "waiting" || answer.state === "running");

  const run = () => {
    if (prompt.trim() === "" || columns.length === 0) return;
    abort.current?.abort();
    const control = new AbortController();
    abort.current = control;
    setAnswers({});
    columns.forEach((model, index) => {
      void streamChat("/v1/chat/completions", { model, messages: [{ role: "user", content: prompt }], ...sampling }, control.signal,
        (state) => { if (abort.current === control) setAnswers((old) => ({ ...old, [index]: state })); });
    });
  };
  const change = (next: string[]) => {
    abort.current?.abort();
    setChosen(next);
    setAnswers({});
  };
  return (
    <Page title={t("nav.compare")} lead={t("compare.lead")} actions={
      columns.length < most && <Button onClick={() => change([...columns, models?.find((model) => !columns.includes(model.id ?? ""))?.id ?? models?.[0]?.id ?? ""])}><Plus className="size-4" aria-hidden />{t("compare.add")}</Button>
    }>
      <div className="space-y-3">
        {modelsError != null && <ErrorNote error={modelsError} retry={() => void refetch()} />}
        <Field label={t("compare.prompt")}>
          {(id) => <TextArea id={id} rows={3} value={prompt} onChange={(event) => { setPrompt(event.target.value); remember("draft.compare", event.target.value || null); }}
            onKeyDown={(event) => { if (event.key === "Enter" && (event.metaKey || event.ctrlKey)) run(); }} />}
        </Field>
        <details className="text-sm"><summary className="text-soft">{t("playground.parameters")}</summary><div className="max-w-xl pt-3"><SamplingForm value={sampling} onChange={setSampling} /></div></details>
        <div className="flex gap-2">
          <Button kind="primary" onClick={run} disabled={prompt.trim() === "" || columns.every((model) => model === "")}>{t("compare.run")}</Button>
          {models?.length === 0 && <p className="self-center text-sm text-soft"><NoModels /></p>}
          {busy && <Button onClick={() => abort.current?.abort()}><Square className="size-3.5" fill="currentColor" aria-hidden />{t("chat.stop")}</Button>}
        </div>
      </div>
      <div className="mt-6 grid grid-cols-1 gap-x-6 gap-y-8 sm:grid-cols-2 xl:grid-flow-col xl:auto-cols-fr xl:grid-cols-none">
        {columns.map((model, index) => {
          const answer = answers[index];
          return (
            <section key={index} aria-label={model} className="min-w-0 border-t border-line pt-2">
              <div className="mb-2 flex items-center">
                <ModelPicker value={model} onChange={(next) => change(columns.map((one, at) => (at === index ? next : one)))} className="-ml-2" />
                <span className="grow" />
                {answer?.content && <CopyButton text={answer.content} />}
                {columns.length > 1 && <IconButton label={t("compare.remove", { model })} onClick={() => change(columns.filter((_, at) => at !== index))}><X /></IconButton>}
              </div>
              {answer && <AnswerView answer={answer} />}
            </section>
          );
        })}
      </div>
    </Page>
  );
}

export function AnswerView({ answer = emptyStream }: { answer?: StreamState }) {
  const { t } = useTranslation();
  const thinking = answer.state === "running" && answer.content === "";
  return (
    <>
      {answer.reasoning && <Reasoning text={answer.reasoning} thinking={thinking} seconds={undefined} />}
      {answer.state === "waiting" ? <ProgressLine turn={{ progress: answer.progress }} /> : <MarkdownText text={answer.content} />}
      {answer.state === "failed" && <ErrorNote error={answer.error} />}
      <AnswerFigures answer={answer} />
      {answer.ignored && <p className="mt-1 text-xs text-warn">{t("playground.ignored", { fields: answer.ignored })}</p>}
    </>
  );
}

export function AnswerFigures({ answer }: { answer: StreamState }) {
  const { t } = useTranslation();
  if (answer.ttftS === undefined) return null;
  const tokens = answer.usage?.completion_tokens;
  return (
    <dl className="mt-3 flex flex-wrap gap-x-5 gap-y-1 text-xs text-faint">
      <div className="flex gap-1"><dt>{t("compare.ttft")}</dt><dd className="text-ink">{formatSeconds(answer.ttftS)}</dd></div>
      {tokens !== undefined && tokens > 1 && answer.decodeS ? <div className="flex gap-1"><dt>{t("compare.speed")}</dt><dd className="text-ink">{significant((tokens - 1) / answer.decodeS, 3)} {t("unit.tokensPerS")}</dd></div> : null}
      {answer.usage && <div className="flex gap-1"><dt>{t("compare.tokens")}</dt><dd className="text-ink">{formatCount(answer.usage.prompt_tokens)} + {formatCount(answer.usage.completion_tokens)}</dd></div>}
      {answer.cost && <div className="flex gap-1"><dt>{t("compare.cost")}</dt><dd className="text-ink"><CostText cost={answer.cost} /></dd></div>}
      {answer.finishReason && <div className="flex gap-1"><dt>{t("compare.finish")}</dt><dd className="text-ink">{answer.finishReason}</dd></div>}
    </dl>
  );
}
