// What the server says in its own words (English), by id or code in the page's language.
import i18n from "i18next";
import type { Finding, Setting } from "../api/types";

export interface ServerTexts {
  settings: Record<string, string>;
  findings: Record<Finding["id"], string>;
  // In place of a finding's value "why".
  reasons: Record<NonNullable<Finding["reason"]>, string>;
  errors: Record<string, string>;
  allowed: (setting: Pick<Setting, "kind" | "minimum" | "maximum" | "choices">) => string;
}

const byLanguage = new Map<string, ServerTexts>();
export const addServerTexts = (language: string, texts: ServerTexts) => byLanguage.set(language, texts);
const texts = () => byLanguage.get(i18n.language);

const fill = (text: string, values: Record<string, string | number>) => text.replace(/\{\{(\w+)\}\}/g, (_, name: string) => String(values[name] ?? ""));

export const settingHelp = (setting: Setting) => texts()?.settings[setting.id] ?? setting.help;
export const settingAllowed = (setting: Setting) => texts()?.allowed(setting) ?? setting.allowed;
export function findingText({ id, text, values, reason }: Finding): string {
  const known = texts();
  const own = known?.findings[id];
  if (!known || own === undefined) return text;
  const why = reason === null ? undefined : known.reasons[reason];
  return fill(own, why === undefined ? values : { ...values, why: fill(why, values) });
}
export function serverError(error: { code?: string | null; message: string; param?: string | null }): string {
  const text = texts()?.errors[error.code ?? ""];
  return text === undefined ? error.message : fill(text, { message: error.message, param: error.param ?? "" }).trim();
}
