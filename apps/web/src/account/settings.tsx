import { useState } from "react";
import { useTranslation } from "react-i18next";
import { useSettings } from "../api/queries";
import { Badge, CopyButton, ErrorNote, Input, Loading, Page, Section } from "../ui/kit";

// Generated from the server's own table of settings: what it lists, this page shows.
export function SettingsPage() {
  const { t } = useTranslation();
  const settings = useSettings();
  const [search, setSearch] = useState("");
  const [changed, setChanged] = useState(false);
  const shown = (settings.data ?? []).filter((one) => `${one.id} ${one.help}`.toLowerCase().includes(search.toLowerCase()) && (!changed || one.source !== "default"));
  const groups = new Map<string, typeof shown>();
  for (const one of shown) {
    const group = one.id.includes(".") ? one.id.split(".")[0]! : t("settings.general");
    groups.set(group, [...(groups.get(group) ?? []), one]);
  }
  return (
    <Page title={t("nav.settings")} lead={t("settings.lead")} actions={
      <>
        <label className="inline-flex items-center gap-1.5 text-sm"><input type="checkbox" className="accent-(--accent)" checked={changed} onChange={(event) => setChanged(event.target.checked)} />{t("settings.onlyChanged")}</label>
        <Input type="search" className="w-52" aria-label={t("settings.search")} placeholder={t("settings.search")} value={search} onChange={(event) => setSearch(event.target.value)} />
      </>}>
      {settings.isPending && <Loading rows={8} />}
      {settings.error && <ErrorNote error={settings.error} retry={() => void settings.refetch()} />}
      {[...groups].map(([group, list]) => (
        <Section key={group} title={group}>
          <ul className="divide-y divide-line">
            {list.map((one) => (
              <li key={one.id} className="grid grid-cols-1 gap-x-6 gap-y-1 py-2 md:grid-cols-[16rem_minmax(0,1fr)_16rem]">
                <div className="min-w-0"><span className="font-mono text-sm break-all">{one.id}</span></div>
                <div className="min-w-0 text-sm"><p>{one.help}</p><p className="text-xs text-faint">{t("settings.allowed", { allowed: one.allowed })} · <span className="font-mono">{one.environment}</span></p></div>
                <div className="flex min-w-0 items-start gap-2 text-sm md:justify-end">
                  <span className="truncate font-mono" title={one.value}>{one.value === "" ? "–" : one.value}</span>
                  {one.source !== "default" && <Badge tone="accent">{t(`settingSource.${one.source === "flag" || one.source === "environment" || one.source === "file" ? one.source : "other"}`)}</Badge>}
                  <CopyButton text={`${one.environment}=${one.value}`} label={t("settings.copy", { name: one.id })} />
                </div>
              </li>
            ))}
          </ul>
        </Section>
      ))}
    </Page>
  );
}
