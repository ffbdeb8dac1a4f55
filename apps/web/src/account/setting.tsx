// Settings of the server's own table, with what they are, where they came from, and a form where they may be changed.
import { Lock, Pencil, RotateCcw } from "lucide-react";
import { useState } from "react";
import { useTranslation } from "react-i18next";
import { useChangeSettings, useSettings } from "../api/queries";
import type { Setting } from "../api/types";
import { settingAllowed, settingHelp } from "../i18n/server_texts";
import { formatBytes } from "../ui/format";
import { Badge, Button, CopyButton, ErrorNote, errorText, Field, IconButton, Input, Loading, Select, TextArea, Tip } from "../ui/kit";

const sources = ["flag", "environment", "file", "console"] as const;
export function useSourceName(): (source: string | null) => string {
  const { t } = useTranslation();
  return (source) => t(`settingSource.${sources.find((one) => one === source) ?? "other"}`);
}

// What the browser can already say; the server checks again, with more.
export function problemOf(setting: Pick<Setting, "kind" | "minimum" | "maximum">, text: string): "number" | "whole" | "low" | "high" | null {
  if (setting.kind !== "integer" && setting.kind !== "number") return null;
  const value = Number(text);
  if (text.trim() === "" || !Number.isFinite(value)) return "number";
  if (setting.kind === "integer" && !Number.isInteger(value)) return "whole";
  if (setting.minimum !== null && value < setting.minimum) return "low";
  if (setting.maximum !== null && value > setting.maximum) return "high";
  return null;
}

// Bytes as people read them; the exact number is in the title.
const shown = (setting: Pick<Setting, "kind">, value: string) => (value === "" ? "–" : setting.kind === "bytes" && /^\d+$/.test(value) ? formatBytes(Number(value)) : value);

function SettingForm({ setting, onDone }: { setting: Setting; onDone: () => void }) {
  const { t } = useTranslation();
  const change = useChangeSettings();
  const [text, setText] = useState(setting.kind === "list" ? (setting.next ?? setting.value).split(",").join("\n") : setting.next ?? setting.value);
  const [touched, setTouched] = useState(false);
  const problem = problemOf(setting, text);
  const error = touched && problem ? t(`settings.bad_${problem}`, { minimum: setting.minimum ?? 0, maximum: setting.maximum ?? 0 }) : change.error ? errorText(change.error, t) : null;
  const choices = setting.kind === "boolean" ? ["true", "false"] : setting.choices;
  const save = () => {
    setTouched(true);
    if (problem) return;
    const value = setting.kind === "list" ? text.split("\n").map((line) => line.trim()).filter(Boolean).join(",") : text.trim();
    change.mutate({ [setting.id]: value }, { onSuccess: onDone });
  };
  return (
    <form className="mt-1 max-w-xl space-y-3 rounded-md bg-sunken p-3 md:col-span-full" onSubmit={(event) => { event.preventDefault(); save(); }} onKeyDown={(event) => { if (event.key === "Escape") onDone(); }}>
      <Field label={t("settings.newValue", { name: setting.id })} error={error} help={setting.live ? t("settings.atOnce") : t("settings.atNextStart")}>
        {(id, note) => choices.length > 0
          ? <Select id={id} aria-describedby={note} aria-invalid={error !== null} value={text} autoFocus onChange={(event) => { setText(event.target.value); change.reset(); }}>{choices.map((one) => <option key={one}>{one}</option>)}</Select>
          : setting.kind === "list"
            ? <TextArea id={id} aria-describedby={note} aria-invalid={error !== null} className="font-mono" rows={4} value={text} autoFocus placeholder={t("settings.onePerLine")} onChange={(event) => { setText(event.target.value); change.reset(); }} />
            : <Input id={id} aria-describedby={note} aria-invalid={error !== null} className="font-mono" value={text} autoFocus inputMode={setting.kind === "integer" || setting.kind === "number" ? "decimal" : "text"} onChange={(event) => { setText(event.target.value); setTouched(true); change.reset(); }} />}
      </Field>
      <div className="flex flex-wrap gap-2"><Button kind="primary" type="submit" busy={change.isPending}>{t("common.save")}</Button><Button onClick={onDone}>{t("common.cancel")}</Button></div>
    </form>
  );
}

export function SettingRow({ setting: one }: { setting: Setting }) {
  const { t } = useTranslation();
  const nameOf = useSourceName();
  const change = useChangeSettings();
  const [editing, setEditing] = useState(false);
  // A flag or variable beats what would be saved here.
  const beaten = one.next_source === "flag" || one.next_source === "environment";
  const kept = one.source === "console" || one.next_source === "console";
  return (
    <li data-setting={one.id} className="grid grid-cols-1 gap-x-6 gap-y-1 py-2 md:grid-cols-[minmax(0,1fr)_19rem] xl:grid-cols-[16rem_minmax(0,1fr)_19rem]">
      <div className="min-w-0 md:max-xl:col-span-full"><span className="font-mono text-sm break-all">{one.id}</span></div>
      <div className="min-w-0 text-sm"><p>{settingHelp(one)}</p><p className="text-xs text-faint">{t("settings.allowed", { allowed: settingAllowed(one) })} · {t("settings.default", { value: one.default || "–" })} · <span className="font-mono">{one.environment}</span></p></div>
      <div className="min-w-0 text-sm">
        <div className="flex min-w-0 items-start gap-1.5 md:justify-end">
          <span className="min-w-0 truncate py-1 font-mono" title={one.value}>{shown(one, one.value)}</span>
          {one.source !== "default" && <span className="py-1"><Badge tone="accent">{nameOf(one.source)}</Badge></span>}
          <CopyButton text={`${one.environment}=${one.value}`} label={t("settings.copy", { name: one.id })} />
          {!one.editable ? <Tip text={t("settings.locked")}><span tabIndex={0} role="img" aria-label={t("settings.locked")} className="inline-flex size-8 items-center justify-center text-faint"><Lock className="size-4" aria-hidden /></span></Tip>
            : beaten ? <Tip text={t("settings.beaten", { source: nameOf(one.next_source) })}><span tabIndex={0} role="img" aria-label={t("settings.beaten", { source: nameOf(one.next_source) })} className="inline-flex size-8 items-center justify-center text-faint"><Lock className="size-4" aria-hidden /></span></Tip>
              : <IconButton label={t("settings.change", { name: one.id })} aria-expanded={editing} onClick={() => setEditing(!editing)}><Pencil /></IconButton>}
          {kept && <IconButton label={t("settings.takeBack", { name: one.id })} disabled={change.isPending} onClick={() => change.mutate({ [one.id]: null })}><RotateCcw /></IconButton>}
        </div>
        {one.next !== null && <p className="text-xs text-warn md:text-right">{t("settings.next", { value: shown(one, one.next) })}</p>}
      </div>
      {change.error != null && <div className="md:col-span-full"><ErrorNote error={change.error} /></div>}
      {editing && <SettingForm setting={one} onDone={() => setEditing(false)} />}
    </li>
  );
}

// Some of them, within another page.
export function SettingList({ ids }: { ids: string[] }) {
  const settings = useSettings();
  if (settings.isPending) return <Loading rows={4} />;
  if (settings.error) return <ErrorNote error={settings.error} retry={() => void settings.refetch()} />;
  return <ul className="divide-y divide-line">{settings.data.filter((one) => ids.includes(one.id)).map((one) => <SettingRow key={one.id} setting={one} />)}</ul>;
}
