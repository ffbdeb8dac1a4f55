import { Brain, ChevronLeft, ChevronRight, FileText, Pencil, Play, RefreshCw, RotateCcw } from "lucide-react";
import { lazy, memo, Suspense, useEffect, useRef, useState } from "react";
import { useTranslation } from "react-i18next";
import { serverError } from "../i18n/server_texts";
import { formatCount, formatPercent, formatSeconds, significant } from "../ui/format";
import { Button, CopyButton, cx, IconButton, TextArea } from "../ui/kit";
import { recall, remember } from "../ui/store";
import { useCostText } from "./cost";
import type { Turn } from "./types";

const Markdown = lazy(() => import("./markdown"));

export interface MessageActions {
  onBranch: (turn: Turn, by: number) => void;
  onRegenerate: (turn: Turn) => void;
  onContinue: (turn: Turn) => void;
  onEdit: (turn: Turn, content: string) => Promise<void>;
}

export function MarkdownText({ text }: { text: string }) {
  return <Suspense fallback={<div className="prose-answer whitespace-pre-wrap">{text}</div>}><Markdown text={text} /></Suspense>;
}

export function useSeconds(running: boolean): number {
  const [seconds, setSeconds] = useState(0);
  useEffect(() => {
    if (!running) return;
    const started = Date.now();
    setSeconds(0);
    const timer = setInterval(() => setSeconds((Date.now() - started) / 1e3), 200);
    return () => clearInterval(timer);
  }, [running]);
  return seconds;
}

export function Reasoning({ text, thinking, seconds }: { text: string; thinking: boolean; seconds: number | undefined }) {
  const { t } = useTranslation();
  const live = useSeconds(thinking);
  return (
    <details className="group mb-2 text-sm text-soft">
      <summary className="inline-flex list-none items-center gap-1.5 rounded-md py-0.5 pr-2 hover:text-ink [&::-webkit-details-marker]:hidden">
        <ChevronRight className="size-4 transition-transform group-open:rotate-90" aria-hidden />
        <Brain className={cx("size-4", thinking && "animate-pulse text-accent")} aria-hidden />
        {thinking ? t("chat.thinking", { time: formatSeconds(Math.max(0.1, Math.round(live * 10) / 10)) }) : seconds ? t("chat.thought", { time: formatSeconds(seconds) }) : t("chat.reasoning")}
      </summary>
      <div className="mt-1 ml-2 border-l-2 border-line pl-3"><MarkdownText text={text} /></div>
    </details>
  );
}

// Why the first token takes time.
export function ProgressLine({ turn }: { turn: Pick<Turn, "progress"> }) {
  const { t } = useTranslation();
  const seconds = useSeconds(true);
  const progress = turn.progress;
  const text = !progress ? t("chat.sending")
    : progress.phase === "queued" ? t("chat.queued", { position: progress.queue_position ?? 0 })
    : progress.phase === "loading" ? t("chat.loadingModel", { share: formatPercent(progress.share ?? 0) })
    : t("chat.prefill", { share: formatPercent(progress.share ?? 0) });
  return (
    <div role="status" className="max-w-sm text-sm text-faint">
      <span>{text}{seconds >= 1 ? ` · ${formatSeconds(Math.floor(seconds))}` : ""}</span>
      <div className="mt-1.5 h-1 overflow-hidden rounded-full bg-sunken">
        <div className={cx("h-full rounded-full bg-accent transition-[width] duration-200", progress?.share === undefined && "w-1/4 animate-pulse")}
          style={progress?.share === undefined ? {} : { width: `${Math.max(2, progress.share * 100)}%` }} />
      </div>
    </div>
  );
}

// One thin line: what the answer took.
export function TurnFigures({ turn }: { turn: Turn }) {
  const { t } = useTranslation();
  const { usage, timings, cost } = turn;
  const costText = useCostText();
  const parts: string[] = [];
  if (turn.model) parts.push(turn.model);
  if (usage) parts.push(t("chat.tokens", { count: usage.completion_tokens, formatted: formatCount(usage.completion_tokens) }));
  if (usage && timings.decode_s && usage.completion_tokens > 1) parts.push(`${significant((usage.completion_tokens - 1) / timings.decode_s, 3)} ${t("unit.tokensPerS")}`);
  if (timings.ttft_s !== undefined) parts.push(t("chat.firstToken", { time: formatSeconds(timings.ttft_s) }));
  if (usage?.prompt_tokens_details?.cached_tokens) parts.push(t("chat.cachedTokens", { formatted: formatCount(usage.prompt_tokens_details.cached_tokens) }));
  if (cost) parts.push(costText(cost));
  if (turn.finish_reason === "length") parts.push(t("chat.cutByLength"));
  return <span className="text-xs text-faint" title={cost ? `${cost.amount} ${cost.currency}` : undefined}>{parts.join(" · ")}</span>;
}

// `elsewhere`: another of them is being answered.
interface BranchPlace { index: number; count: number; elsewhere: boolean }
function Branches({ index, count, elsewhere, turn, onBranch }: BranchPlace & { turn: Turn; onBranch: MessageActions["onBranch"] }) {
  const { t } = useTranslation();
  if (count < 2) return null;
  return (
    <span className="inline-flex items-center text-xs text-faint">
      <IconButton label={t("chat.previousBranch")} disabled={index === 0} onClick={() => onBranch(turn, -1)}><ChevronLeft /></IconButton>
      <span aria-label={t("chat.branch", { index: index + 1, count })}>{index + 1}/{count}</span>
      {elsewhere && <span className="ml-1 size-2 animate-pulse rounded-full bg-accent" aria-label={t("chat.answering")} role="img" />}
      <IconButton label={t("chat.nextBranch")} disabled={index === count - 1} onClick={() => onBranch(turn, 1)}><ChevronRight /></IconButton>
    </span>
  );
}

// A row that is scrolled away is taken down, and its box with it: what was typed is with the drafts until it is sent or given up.
const editKey = (turn: Turn) => `edit.${turn.id}`;

function EditBox({ turn, focus, onDone, onEdit }: { turn: Turn; focus: boolean; onDone: () => void; onEdit: MessageActions["onEdit"] }) {
  const { t } = useTranslation();
  const [text, setText] = useState(() => recall(editKey(turn)) ?? turn.content);
  const [busy, setBusy] = useState(false);
  const ref = useRef<HTMLTextAreaElement>(null);
  useEffect(() => { if (focus) ref.current?.focus(); }, [focus]);
  const change = (next: string) => {
    setText(next);
    remember(editKey(turn), next);
  };
  const save = async () => {
    setBusy(true);
    try {
      await onEdit(turn, text);
      onDone();
    } catch {
      setBusy(false);  // the page shows why; the text stays
    }
  };
  return (
    <div className="w-full space-y-2">
      <TextArea ref={ref} readOnly={busy} aria-label={t("chat.editMessage")} value={text} rows={Math.min(14, text.split("\n").length + 1)} onChange={(event) => change(event.target.value)}
        onKeyDown={(event) => { if (event.key === "Escape") onDone(); }} />
      <div className="flex justify-end gap-2">
        <Button kind="quiet" onClick={onDone}>{t("common.cancel")}</Button>
        <Button kind="primary" busy={busy} disabled={text.trim() === ""} onClick={() => void save()}>{t("chat.sendEdited")}</Button>
      </div>
    </div>
  );
}

export const Message = memo(function Message({ turn, last, actions, ...place }: BranchPlace & { turn: Turn; last: boolean; actions: MessageActions }) {
  const { t } = useTranslation();
  const branches = <Branches {...place} turn={turn} onBranch={actions.onBranch} />;
  const alone = place.count < 2;
  // "again": a box that was open before, which must not take the focus from where somebody is now.
  const [editing, setEditing] = useState<"no" | "opened" | "again">(() => (turn.role === "user" && recall(editKey(turn)) !== null ? "again" : "no"));
  const edit = () => {
    remember(editKey(turn), turn.content);
    setEditing("opened");
  };
  const article = useRef<HTMLElement>(null);
  const edited = () => {
    remember(editKey(turn), null);
    setEditing("no");
    // The focus goes back to where it came from.
    setTimeout(() => article.current?.querySelector<HTMLElement>("[data-edit]")?.focus());
  };
  const controls = "flex flex-wrap items-center gap-0.5 transition-opacity group-focus-within:opacity-100 group-hover:opacity-100 [@media(hover:none)]:opacity-100";
  if (turn.role === "user") {
    return (
      <article ref={article} aria-label={t("chat.you")} data-turn={turn.id} data-role="user" className="group flex flex-col items-end py-2">
        {turn.files.length > 0 && (
          <ul className="mb-1 flex max-w-full flex-wrap justify-end gap-1">
            {turn.files.map((file, at) => (
              <li key={at} className="max-w-full">
                <details className="rounded-md border border-line text-xs">
                  <summary className="flex items-center gap-1.5 px-2 py-1"><FileText className="size-3.5 shrink-0" aria-hidden /><span className="truncate">{file.name}</span></summary>
                  <pre tabIndex={0} className="max-h-60 max-w-[80vw] overflow-auto border-t border-line p-2 font-mono">{file.text}</pre>
                </details>
              </li>
            ))}
          </ul>
        )}
        {editing !== "no"
          ? <EditBox turn={turn} focus={editing === "opened"} onDone={edited} onEdit={actions.onEdit} />
          : turn.content && <div className="max-w-[min(46rem,88%)] rounded-2xl bg-sunken px-4 py-2 break-words whitespace-pre-wrap">{turn.content}</div>}
        {editing === "no" && (
          <div className={cx(controls, "mt-0.5", alone && "opacity-0")}>
            {branches}
            <CopyButton text={turn.content} />
            <IconButton data-edit label={t("chat.edit")} onClick={edit}><Pencil /></IconButton>
          </div>
        )}
      </article>
    );
  }
  const running = turn.state === "running";
  const thinking = running && turn.content === "" && turn.reasoning !== "";
  return (
    <article aria-label={turn.model || t("chat.assistant")} aria-busy={running} data-turn={turn.id} data-role="assistant" data-state={turn.state} className="group py-2">
      {turn.dropped_turns > 0 && <p className="mb-2 border-t border-dashed border-line-strong pt-1 text-xs text-faint">{t("chat.dropped", { count: turn.dropped_turns })}</p>}
      {turn.reasoning && <Reasoning text={turn.reasoning} thinking={thinking} seconds={turn.timings.reasoning_s} />}
      {turn.content && <MarkdownText text={turn.content} />}
      {running && !turn.content && !turn.reasoning && <ProgressLine turn={turn} />}
      {turn.state === "failed" && (
        <p role="alert" className="mt-2 rounded-md bg-bad-soft px-3 py-2 text-sm break-words text-bad">{turn.error ? serverError(turn.error) : t("common.failed")}</p>
      )}
      {turn.state === "interrupted" && <p className="mt-2 rounded-md bg-warn-soft px-3 py-2 text-sm text-warn">{t("chat.interrupted")}</p>}
      {running ? !alone && <div className="mt-1 -ml-2">{branches}</div> : (
        <div className={cx("mt-1 flex flex-wrap items-center gap-x-2", !last && alone && turn.state === "done" && "opacity-0 transition-opacity group-focus-within:opacity-100 group-hover:opacity-100 [@media(hover:none)]:opacity-100")}>
          <div className="-ml-2 flex items-center gap-0.5">
            {branches}
            <CopyButton text={turn.content} />
            <IconButton label={t("chat.regenerate")} onClick={() => actions.onRegenerate(turn)}>{turn.state === "failed" ? <RotateCcw /> : <RefreshCw />}</IconButton>
            {(turn.state === "interrupted" || turn.state === "stopped" || turn.finish_reason === "length") && turn.content !== "" &&
              <Button kind="quiet" onClick={() => actions.onContinue(turn)}><Play className="size-4" aria-hidden />{t("chat.continue")}</Button>}
          </div>
          {turn.state === "stopped" && <span className="text-xs text-faint">{t("chat.stopped")}</span>}
          <TurnFigures turn={turn} />
        </div>
      )}
    </article>
  );
});
