import { ArrowUp, FileText, Paperclip, Square, X } from "lucide-react";
import { useEffect, useLayoutEffect, useRef, useState } from "react";
import { useTranslation } from "react-i18next";
import { postJson } from "../api/client";
import type { Cost } from "../api/types";
import { formatCount } from "../ui/format";
import { cx, IconButton } from "../ui/kit";
import { shortAmount, spent } from "../ui/money";
import { recall, remember } from "../ui/store";
import type { AttachedFile } from "./types";

const maxFileBytes = 2 << 20;
const maxFiles = 16;

export interface Draft { text: string; files: AttachedFile[] }

// The draft of a conversation outlives reloads and sessions; it goes when it was sent. Where the browser's storage has no room for
// its files, its text does.
export function readDraft(id: string): Draft {
  try {
    const kept = JSON.parse(recall(`draft.${id}`) ?? "null") as Partial<Draft> | null;
    return { text: kept?.text ?? "", files: Array.isArray(kept?.files) ? kept.files : [] };
  } catch {
    return { text: "", files: [] };
  }
}
export function writeDraft(id: string, draft: Draft) {
  const { text, files } = draft;
  remember(`draft.${id}`, text === "" && files.length === 0 ? null : JSON.stringify(draft), text === "" ? null : JSON.stringify({ text, files: [] }));
}
const noDraft: Draft = { text: "", files: [] };
// What could not be sent, before what was typed since.
function joined(sent: Draft, since: Draft): Draft {
  return { text: [sent.text, since.text].filter(Boolean).join("\n"), files: [...sent.files, ...since.files] };
}

function useTokenCount(model: string, draft: Draft): number | null {
  const [count, setCount] = useState<number | null>(null);
  const text = [...draft.files.map((file) => file.text), draft.text].filter(Boolean).join("\n");
  useEffect(() => {
    if (!model || text === "") {
      setCount(null);
      return;
    }
    const abort = new AbortController();
    const timer = setTimeout(() => {
      postJson("/tokenize", { model, prompt: text, add_special_tokens: false }, { signal: abort.signal })
        .then((reply) => setCount(reply.count), () => setCount(null));
    }, 400);
    return () => {
      clearTimeout(timer);
      abort.abort();
    };
  }, [model, text]);
  return count;
}

// What the conversation came to so far, all of its branches: what was spent is spent.
function SpentMeter({ costs }: { costs: (Cost | null)[] }) {
  const { t } = useTranslation();
  const { totals, unpriced, free } = spent(costs);
  if (totals.length === 0 && unpriced + free === 0) return null;
  const text = totals.length > 0 ? t("cost.spent", { amounts: totals.map(([currency, amount]) => `${shortAmount(amount)} ${currency}`).join(" + ") }) : free > 0 ? t("cost.free") : t("cost.unpriced");
  const exact = [...totals.map(([currency, amount]) => `${amount} ${currency}`), ...(free > 0 ? [t("cost.freeAnswers", { count: free })] : []), ...(unpriced > 0 ? [t("cost.unpricedAnswers", { count: unpriced })] : [])].join(", ");
  return <span data-testid="spent" className="px-1 text-xs whitespace-nowrap text-faint" title={t("cost.hint", { exact })}>{text}</span>;
}

export function Composer({ id, model, running, usedTokens, contextTokens, costs, onSend, onSent, onStop, disabled = false }: {
  id: string; model: string; running: boolean; usedTokens: number; contextTokens: number; costs: (Cost | null)[];
  // Where it went: a new conversation has its id by then.
  onSend: (draft: Draft) => Promise<string>; onSent: (conversation: string) => void; onStop: () => void; disabled?: boolean;
}) {
  const { t } = useTranslation();
  const [draft, setDraft] = useState<Draft>(() => readDraft(id));
  const [problem, setProblem] = useState("");
  const [sending, setSending] = useState(false);
  const [dragging, setDragging] = useState(false);
  const area = useRef<HTMLTextAreaElement>(null);
  const picker = useRef<HTMLInputElement>(null);
  const tokens = useTokenCount(model, draft);
  // As last typed, also for what goes on after a wait; and what is on its way, which a reload must still find.
  const now = useRef({ draft, sending: null as Draft | null, home: id, shown: true });
  const change = (next: Draft) => {
    now.current.draft = next;
    setDraft(next);
    writeDraft(now.current.home, now.current.sending ? joined(now.current.sending, next) : next);
  };
  useEffect(() => {
    const state = now.current;
    state.shown = true;
    return () => { state.shown = false; };
  }, []);
  useLayoutEffect(() => {
    const element = area.current;
    if (!element) return;
    element.style.height = "auto";
    element.style.height = `${Math.min(element.scrollHeight, innerHeight * 0.4)}px`;
  }, [draft.text]);
  useEffect(() => {
    if (matchMedia("(hover: hover)").matches) area.current?.focus();
  }, [id]);

  const addFiles = async (list: Iterable<File>) => {
    setProblem("");
    const added: AttachedFile[] = [];
    for (const file of list) {
      if (now.current.draft.files.length + (now.current.sending?.files.length ?? 0) + added.length >= maxFiles) {
        setProblem(t("chat.tooManyFiles", { count: maxFiles }));
        break;
      }
      if (file.size > maxFileBytes) {
        setProblem(t("chat.fileTooLarge", { name: file.name }));
        continue;
      }
      const bytes = new Uint8Array(await file.arrayBuffer());
      try {
        if (bytes.includes(0)) throw new TypeError();
        added.push({ name: file.name, text: new TextDecoder("utf-8", { fatal: true }).decode(bytes) });
      } catch {
        setProblem(t("chat.fileNotText", { name: file.name }));
      }
    }
    if (added.length > 0) change({ ...now.current.draft, files: [...now.current.draft.files, ...added] });
  };
  const empty = draft.text.trim() === "" && draft.files.length === 0;
  const send = async () => {
    if (empty || sending || running || disabled) return;
    const sent = draft;
    now.current.sending = sent;
    setSending(true);
    setProblem("");
    change(noDraft);
    try {
      const conversation = await onSend(sent);
      const { draft: since, shown } = now.current;
      now.current.sending = null;
      now.current.home = conversation;
      // Somebody who went elsewhere and came back may have typed more into another box: that is newer.
      if (shown || recall(`draft.${id}`) === JSON.stringify(joined(sent, since))) {
        if (conversation !== id) writeDraft(id, noDraft);
        writeDraft(conversation, since);
      }
      if (shown) onSent(conversation);
    } catch {
      // The page says why; what was to be sent comes back.
      const { draft: since, shown } = now.current;
      now.current.sending = null;
      if (shown) change(joined(sent, since));
    } finally {
      setSending(false);
    }
  };
  const share = contextTokens > 0 ? (usedTokens + (tokens ?? 0)) / contextTokens : 0;
  return (
    <div className={cx("rounded-2xl border bg-panel shadow-sm transition-colors focus-within:border-accent", dragging ? "border-accent bg-accent-soft" : "border-line-strong")}
      onDragOver={(event) => { event.preventDefault(); setDragging(true); }} onDragLeave={() => setDragging(false)}
      onDrop={(event) => { event.preventDefault(); setDragging(false); void addFiles(event.dataTransfer.files); }}>
      {draft.files.length > 0 && (
        <ul className="flex flex-wrap gap-1 px-3 pt-2" aria-label={t("chat.files")}>
          {draft.files.map((file, index) => (
            <li key={index} className="inline-flex max-w-60 items-center gap-1 rounded-md bg-sunken py-0.5 pl-2 text-xs">
              <FileText className="size-3.5 shrink-0" aria-hidden /><span className="truncate">{file.name}</span>
              <IconButton className="size-6" label={t("chat.removeFile", { name: file.name })} onClick={() => change({ ...draft, files: draft.files.filter((_, at) => at !== index) })}><X /></IconButton>
            </li>
          ))}
        </ul>
      )}
      <textarea ref={area} rows={1} value={draft.text} aria-label={t("chat.message")} placeholder={model ? t("chat.placeholder", { model }) : t("chat.chooseModel")}
        className="block max-h-[40vh] w-full resize-none bg-transparent px-4 pt-3 pb-1 outline-none placeholder:overflow-hidden placeholder:text-ellipsis placeholder:whitespace-nowrap placeholder:text-faint"
        onChange={(event) => change({ ...draft, text: event.target.value })}
        onPaste={(event) => { if (event.clipboardData.files.length > 0) { event.preventDefault(); void addFiles(event.clipboardData.files); } }}
        onKeyDown={(event) => {
          if (event.key === "Enter" && !event.shiftKey && !event.nativeEvent.isComposing) {
            event.preventDefault();
            void send();
          }
        }} />
      {problem && <p role="alert" className="px-4 text-xs text-bad">{problem}</p>}
      <div className="flex items-center gap-1 px-2 pb-2">
        <input ref={picker} type="file" multiple className="hidden" tabIndex={-1} aria-hidden onChange={(event) => { void addFiles(event.target.files ?? []); event.target.value = ""; }} />
        <IconButton label={t("chat.attach")} onClick={() => picker.current?.click()}><Paperclip /></IconButton>
        <span className="grow" />
        <span className={cx("px-1 text-xs", share > 1 ? "text-bad" : share > 0.8 ? "text-warn" : "text-faint")} title={t("chat.contextHint")}>
          {tokens !== null && t("chat.draftTokens", { formatted: formatCount(tokens) })}
          {contextTokens > 0 && usedTokens > 0 && <> {tokens !== null && "·"} {t("chat.contextUsed", { used: formatCount(usedTokens), all: formatCount(contextTokens) })}</>}
        </span>
        <SpentMeter costs={costs} />
        {running
          ? <IconButton label={t("chat.stop")} className="bg-ink text-ground hover:bg-ink hover:text-ground hover:opacity-80" onClick={onStop}><Square fill="currentColor" /></IconButton>
          : <IconButton label={t("chat.send")} disabled={empty || sending || disabled || !model} className="bg-accent text-on-accent hover:bg-accent hover:text-on-accent hover:brightness-110" onClick={() => void send()}><ArrowUp /></IconButton>}
      </div>
    </div>
  );
}
