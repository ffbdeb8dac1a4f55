import { useState } from "react";
import { useTranslation } from "react-i18next";
import { useSettings } from "../api/queries";
import { settingHelp } from "../i18n/server_texts";
import { ErrorNote, Input, Loading, Page, Section } from "../ui/kit";
import { SecretsSection } from "./secrets";
import { SettingRow } from "./setting";

// Generated from the server's own table of settings: what it lists, this page shows, and changes where that is allowed.
export function SettingsPage() {
  const { t } = useTranslation();
  const settings = useSettings();
  const [search, setSearch] = useState("");
  const [changed, setChanged] = useState(false);
  const all = settings.data ?? [];
  const shown = all.filter((one) => `${one.id} ${settingHelp(one)}`.toLowerCase().includes(search.toLowerCase()) && (!changed || one.source !== "default" || one.next !== null));
  const groups = new Map<string, typeof shown>();
  for (const one of shown) {
    const group = one.id.includes(".") ? one.id.split(".")[0]! : t("settings.general");
    groups.set(group, [...(groups.get(group) ?? []), one]);
  }
  const waiting = all.filter((one) => one.next !== null);
  return (
    <Page title={t("nav.settings")} lead={t("settings.lead")} actions={
      <>
        <label className="inline-flex items-center gap-1.5 text-sm"><input type="checkbox" className="accent-(--accent)" checked={changed} onChange={(event) => setChanged(event.target.checked)} />{t("settings.onlyChanged")}</label>
        <Input type="search" className="w-52" aria-label={t("settings.search")} placeholder={t("settings.search")} value={search} onChange={(event) => setSearch(event.target.value)} />
      </>}>
      {settings.isPending && <Loading rows={8} />}
      {settings.error && <ErrorNote error={settings.error} retry={() => void settings.refetch()} />}
      {waiting.length > 0 && <p role="status" className="mb-4 rounded-md bg-warn-soft px-3 py-2 text-sm text-warn">{t("settings.waiting", { count: waiting.length, names: waiting.map((one) => one.id).join(", ") })}</p>}
      {search === "" && !changed && <SecretsSection />}
      {[...groups].map(([group, list]) => (
        <Section key={group} title={group}>
          <ul className="divide-y divide-line">{list.map((one) => <SettingRow key={one.id} setting={one} />)}</ul>
        </Section>
      ))}
    </Page>
  );
}
