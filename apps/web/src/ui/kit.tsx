// The few parts all pages are made of.
import { DropdownMenu, Tooltip as RadixTooltip } from "radix-ui";
import { Check, Copy, Loader2, X } from "lucide-react";
import {
  useEffect, useId, useRef, useState,
  type ButtonHTMLAttributes, type InputHTMLAttributes, type ReactNode, type Ref, type SelectHTMLAttributes, type TextareaHTMLAttributes,
} from "react";
import { useTranslation } from "react-i18next";
import { ApiError } from "../api/client";
import { serverError } from "../i18n/server_texts";
import { formatAgo, formatTime } from "./format";

export function cx(...names: (string | false | null | undefined)[]): string {
  return names.filter(Boolean).join(" ");
}

type ButtonKind = "primary" | "plain" | "quiet" | "danger";
const buttonKinds: Record<ButtonKind, string> = {
  primary: "bg-accent text-on-accent hover:brightness-110",
  plain: "border border-line-strong bg-panel hover:bg-sunken",
  quiet: "text-soft hover:bg-sunken hover:text-ink",
  danger: "border border-bad text-bad hover:bg-bad-soft",
};
export function Button({ kind = "plain", busy = false, className, children, ...rest }:
  ButtonHTMLAttributes<HTMLButtonElement> & { kind?: ButtonKind; busy?: boolean }) {
  return (
    <button type="button" {...rest} disabled={rest.disabled || busy}
      className={cx("inline-flex min-h-8 items-center justify-center gap-1.5 rounded-md px-3 py-1 text-sm font-medium whitespace-nowrap transition-colors disabled:cursor-not-allowed disabled:opacity-50", buttonKinds[kind], className)}>
      {busy && <Loader2 className="size-4 animate-spin" aria-hidden />}
      {children}
    </button>
  );
}

// A picture alone needs a name for those who do not see it.
export function IconButton({ label, className, children, ...rest }: ButtonHTMLAttributes<HTMLButtonElement> & { label: string }) {
  return (
    <Tip text={label}>
      <button type="button" aria-label={label} {...rest}
        className={cx("inline-flex size-8 shrink-0 items-center justify-center rounded-md text-faint transition-colors hover:bg-sunken hover:text-ink disabled:cursor-not-allowed disabled:opacity-40 [&_svg]:size-4", className)}>
        {children}
      </button>
    </Tip>
  );
}

export function Tip({ text, children }: { text: ReactNode; children: ReactNode }) {
  return (
    <RadixTooltip.Root>
      <RadixTooltip.Trigger asChild>{children}</RadixTooltip.Trigger>
      <RadixTooltip.Portal>
        <RadixTooltip.Content sideOffset={6} collisionPadding={8}
          className="z-50 max-w-72 rounded-md bg-ink px-2 py-1 text-xs text-ground shadow-md">{text}</RadixTooltip.Content>
      </RadixTooltip.Portal>
    </RadixTooltip.Root>
  );
}

export interface MenuItem { label: string; icon?: ReactNode; onSelect: () => void; danger?: boolean; disabled?: boolean; checked?: boolean }
export function Menu({ trigger, items, align = "end" }: { trigger: ReactNode; items: (MenuItem | "line")[]; align?: "start" | "end" }) {
  return (
    <DropdownMenu.Root modal={false}>
      <DropdownMenu.Trigger asChild>{trigger}</DropdownMenu.Trigger>
      <DropdownMenu.Portal>
        <DropdownMenu.Content align={align} sideOffset={4} collisionPadding={8}
          className="z-50 max-h-[70vh] min-w-44 overflow-y-auto rounded-lg border border-line bg-panel p-1 text-sm shadow-lg">
          {items.map((item, index) => item === "line"
            ? <DropdownMenu.Separator key={index} className="my-1 h-px bg-line" />
            : (
              <DropdownMenu.Item key={index} disabled={item.disabled ?? false} onSelect={item.onSelect}
                className={cx("flex cursor-pointer items-center gap-2 rounded-md px-2 py-1.5 outline-none data-[disabled]:cursor-not-allowed data-[disabled]:opacity-50 data-[highlighted]:bg-sunken [&_svg]:size-4", item.danger && "text-bad")}>
                {item.icon}
                <span className="grow">{item.label}</span>
                {item.checked && <Check aria-hidden />}
              </DropdownMenu.Item>
            ))}
        </DropdownMenu.Content>
      </DropdownMenu.Portal>
    </DropdownMenu.Root>
  );
}

export function Field({ label, help, error, children }: { label: string; help?: ReactNode; error?: string | null | undefined; children: (id: string, describedBy: string | undefined) => ReactNode }) {
  const id = useId();
  const note = error || help ? `${id}-note` : undefined;
  return (
    <div className="space-y-1.5">
      <label htmlFor={id} className="block text-sm font-medium">{label}</label>
      {children(id, note)}
      {note && <p id={note} className={cx("text-xs", error ? "text-bad" : "text-faint")}>{error || help}</p>}
    </div>
  );
}

const inputLook = "rounded-md border border-line-strong bg-panel px-2.5 py-1 text-sm min-h-8 placeholder:text-faint disabled:opacity-60 aria-[invalid=true]:border-bad";
// Full width unless the caller says another.
const inputClass = (className: string | undefined, more = "") => cx(inputLook, more, !/\bw-/.test(className ?? "") && "w-full", className);
export function Input({ className, ...rest }: InputHTMLAttributes<HTMLInputElement>) {
  return <input {...rest} className={inputClass(className)} />;
}
export function TextArea({ className, ...rest }: TextareaHTMLAttributes<HTMLTextAreaElement> & { ref?: Ref<HTMLTextAreaElement> }) {
  return <textarea {...rest} className={inputClass(className, "block min-h-20 py-1.5")} />;
}
export function Select({ className, ...rest }: SelectHTMLAttributes<HTMLSelectElement>) {
  return <select {...rest} className={inputClass(className, "pr-7")} />;
}

// The browser's own dialog: focus stays inside, Escape closes.
// Without onClose it stays until it is answered.
export function Dialog({ open, onClose, title, children, wide = false }: { open: boolean; onClose?: () => void; title: string; children: ReactNode; wide?: boolean }) {
  const ref = useRef<HTMLDialogElement>(null);
  const { t } = useTranslation();
  const titleId = useId();
  useEffect(() => {
    const dialog = ref.current;
    if (!dialog) return;
    if (open && !dialog.open) {
      dialog.showModal();
      // What is to be filled in, not the button that closes it.
      dialog.querySelector<HTMLElement>("[data-body] :is(input:not([type=checkbox], [readonly]), textarea:not([readonly]), select)")?.focus();
    }
    if (!open && dialog.open) dialog.close();
  }, [open]);
  return (
    <dialog ref={ref} aria-labelledby={titleId} onCancel={(event) => { if (!onClose && event.target === ref.current) event.preventDefault(); }}
      // Its own end: React lets that of a dialog within it come here too.
      onClose={(event) => {
        if (event.target !== ref.current) return;
        if (onClose) onClose();
        else if (open) ref.current.showModal();
      }}
      onClick={(event) => { if (event.target === ref.current) onClose?.(); }}
      className={cx("max-h-[90dvh] w-[calc(100vw-2rem)] overflow-hidden rounded-xl border border-line bg-panel p-0 text-ink shadow-2xl", wide ? "max-w-3xl" : "max-w-md")}>
      {open && (
        <div className="flex max-h-[90dvh] flex-col">
          <header className="flex items-center gap-2 border-b border-line px-4 py-2.5">
            <h2 id={titleId} className="grow truncate">{title}</h2>
            {/* Without a hint: it has the focus first, and Escape would close the hint instead of the dialog. */}
            {onClose && <button type="button" aria-label={t("common.close")} onClick={onClose} className="inline-flex size-8 items-center justify-center rounded-md text-faint hover:bg-sunken hover:text-ink"><X className="size-4" /></button>}
          </header>
          <div data-body className="overflow-y-auto p-4">{children}</div>
        </div>
      )}
    </dialog>
  );
}

// What will stop is said before it stops.
export function Confirm({ open, title, text, action, onConfirm, onClose, busy = false, error = null }:
  { open: boolean; title: string; text: ReactNode; action: string; onConfirm: () => void; onClose: () => void; busy?: boolean; error?: unknown }) {
  const { t } = useTranslation();
  return (
    <Dialog open={open} onClose={onClose} title={title}>
      <div className="space-y-4">
        <div className="text-sm text-soft">{text}</div>
        {error != null && <ErrorNote error={error} />}
        <div className="flex justify-end gap-2">
          <Button onClick={onClose}>{t("common.cancel")}</Button>
          <Button kind="danger" busy={busy} onClick={onConfirm}>{action}</Button>
        </div>
      </div>
    </Dialog>
  );
}

export function Page({ title, actions, children, lead }: { title: string; actions?: ReactNode; children: ReactNode; lead?: ReactNode }) {
  useEffect(() => { document.title = `${title} · Tidepool`; }, [title]);
  return (
    <div className="mx-auto w-full max-w-[1600px] px-4 py-4 sm:px-6">
      <header className="mb-4 flex min-h-8 flex-wrap items-center gap-x-3 gap-y-2">
        <h1 className="mr-auto min-w-0 break-words">{title}</h1>
        {/* Together on a line of their own where they do not fit beside the title. */}
        {actions && <div className="flex min-w-0 flex-wrap items-center gap-x-3 gap-y-2">{actions}</div>}
      </header>
      {lead && <div className="mb-5 text-soft">{lead}</div>}
      {children}
    </div>
  );
}

export function Section({ title, note, actions, children, className }: { title: string; note?: ReactNode; actions?: ReactNode; children: ReactNode; className?: string }) {
  const id = useId();
  return (
    <section aria-labelledby={id} className={cx("border-t border-line py-4", className)}>
      <header className="mb-3 flex flex-wrap items-baseline gap-x-3 gap-y-1">
        <h2 id={id}>{title}</h2>
        {note && <span className="text-sm text-faint">{note}</span>}
        {actions && <div className="ml-auto flex flex-wrap items-center gap-2">{actions}</div>}
      </header>
      {children}
    </section>
  );
}

export function Stat({ label, value, unit, hint, tone }: { label: string; value: ReactNode; unit?: string; hint?: ReactNode; tone?: "good" | "warn" | "bad" | undefined }) {
  return (
    <div className="min-w-0">
      <dt className="truncate text-xs text-faint">{label}</dt>
      <dd className={cx("text-lg font-semibold tracking-tight [overflow-wrap:anywhere]", tone === "good" && "text-good", tone === "warn" && "text-warn", tone === "bad" && "text-bad")}>
        {value}{unit && <span className="ml-1 inline-block text-sm font-normal text-faint">{unit}</span>}
      </dd>
      {hint && <dd className="truncate text-xs text-faint" title={typeof hint === "string" ? hint : undefined}>{hint}</dd>}
    </div>
  );
}

export type Tone = "neutral" | "good" | "warn" | "bad" | "accent";
const tones: Record<Tone, string> = {
  neutral: "bg-sunken text-soft", good: "bg-sunken text-good", warn: "bg-warn-soft text-warn", bad: "bg-bad-soft text-bad", accent: "bg-accent-soft text-accent",
};
export function Badge({ tone = "neutral", children }: { tone?: Tone; children: ReactNode }) {
  return <span className={cx("inline-flex items-center gap-1 rounded-full px-2 py-0.5 text-xs font-medium whitespace-nowrap", tones[tone])}>{children}</span>;
}

export function ErrorNote({ error, retry }: { error: unknown; retry?: () => void }) {
  const { t } = useTranslation();
  const text = errorText(error, t);
  const request = error instanceof ApiError ? error.problem.requestId : "";
  return (
    <div role="alert" className="flex flex-wrap items-center gap-x-3 gap-y-1 rounded-md bg-bad-soft px-3 py-2 text-sm text-bad">
      <span className="min-w-0 grow break-words">{text}</span>
      {request && <span className="font-mono text-xs">{request}</span>}
      {retry && <Button kind="quiet" className="text-bad" onClick={retry}>{t("common.retry")}</Button>}
    </div>
  );
}

export function errorText(error: unknown, t: (key: "common.unreachable" | "common.failed") => string): string {
  if (error instanceof ApiError) return error.code === "unreachable" ? t("common.unreachable") : serverError(error.problem);
  return error instanceof Error && error.message ? error.message : t("common.failed");
}

export function Empty({ title, children }: { title: string; children?: ReactNode }) {
  return (
    <div className="flex flex-col items-center gap-2 rounded-lg border border-dashed border-line-strong px-4 py-10 text-center">
      <p className="font-medium">{title}</p>
      {children && <div className="max-w-prose text-sm text-soft">{children}</div>}
    </div>
  );
}

export function Loading({ rows = 3 }: { rows?: number }) {
  const { t } = useTranslation();
  return (
    <div role="status" aria-label={t("common.loading")} className="space-y-2">
      {Array.from({ length: rows }, (_, index) => <div key={index} className="h-8 animate-pulse rounded-md bg-sunken" />)}
    </div>
  );
}

export function Ago({ at }: { at: number }) {
  const [, tick] = useState(0);
  useEffect(() => {
    const timer = setInterval(() => tick((n) => n + 1), 30_000);
    return () => clearInterval(timer);
  }, []);
  return <time dateTime={new Date(at * 1e3).toISOString()} title={formatTime(at)}>{formatAgo(at)}</time>;
}

export function CopyButton({ text, label }: { text: string | (() => string); label?: string }) {
  const { t } = useTranslation();
  const [done, setDone] = useState(false);
  useEffect(() => {
    if (!done) return;
    const timer = setTimeout(() => setDone(false), 1500);
    return () => clearTimeout(timer);
  }, [done]);
  const copy = async () => {
    const content = typeof text === "string" ? text : text();
    try {
      await navigator.clipboard.writeText(content);
    } catch {
      // No clipboard without TLS beyond localhost: the old way still works.
      // Within a dialog that is open: what is outside of it cannot be selected.
      const before = document.activeElement;
      const area = document.createElement("textarea");
      area.value = content;
      (before?.closest("dialog") ?? document.body).append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
      if (before instanceof HTMLElement) before.focus();
    }
    setDone(true);
  };
  return <IconButton label={done ? t("common.copied") : label ?? t("common.copy")} onClick={() => void copy()}>{done ? <Check /> : <Copy />}</IconButton>;
}

export function Meter({ value, max, label, color }: { value: number; max: number; label: string; color?: string }) {
  const share = max > 0 ? Math.min(1, value / max) : 0;
  return (
    <div role="meter" aria-label={label} aria-valuenow={Math.round(value)} aria-valuemin={0} aria-valuemax={Math.round(max)}
      className="h-1.5 w-full overflow-hidden rounded-full bg-sunken">
      <div className={cx("h-full rounded-full transition-[width] duration-300", !color && (share > 0.95 ? "bg-bad" : share > 0.8 ? "bg-warn" : "bg-accent"))}
        style={{ width: `${share * 100}%`, background: color }} />
    </div>
  );
}

// The next page of a list, where there is one.
export function More({ list }: { list: { hasNextPage: boolean; isFetchingNextPage: boolean; fetchNextPage: () => unknown } }) {
  const { t } = useTranslation();
  return list.hasNextPage && <div className="mt-3"><Button busy={list.isFetchingNextPage} onClick={() => void list.fetchNextPage()}>{t("common.more")}</Button></div>;
}

export interface Column<Row> { head: string; cell: (row: Row) => ReactNode; right?: boolean; wide?: boolean; hide?: "sm" | "md" | "lg" }
const hiding = { sm: "max-sm:hidden", md: "max-md:hidden", lg: "max-lg:hidden" };
export function Table<Row>({ columns, rows, keyOf, label }: { columns: Column<Row>[]; rows: Row[]; keyOf: (row: Row) => string; label: string }) {
  return (
    <div className="overflow-x-auto" tabIndex={0} role="region" aria-label={label}>
      <table className="w-full border-collapse text-sm">
        <thead>
          <tr className="border-b border-line-strong text-left text-xs text-faint">
            {columns.map((column, index) => (
              <th key={index} scope="col" className={cx("px-2 py-1.5 font-medium whitespace-nowrap first:pl-0 last:pr-0", column.right && "text-right", column.hide && hiding[column.hide])}>{column.head}</th>
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.map((row) => (
            <tr key={keyOf(row)} className="h-9 border-b border-line hover:bg-sunken/60">
              {columns.map((column, index) => (
                <td key={index} className={cx("px-2 py-1.5 whitespace-nowrap first:pl-0 last:pr-0", column.right && "text-right", column.wide && "w-full max-w-0 truncate", column.hide && hiding[column.hide])}>{column.head === "" && column.right ? <div className="-my-1.5">{column.cell(row)}</div> : column.cell(row)}</td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
