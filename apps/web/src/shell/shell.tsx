import {
  Activity, Boxes, ChartGantt, Columns2, FlaskConical, Languages, Menu as MenuIcon, MessageSquare, Monitor, Moon, PackageSearch, Settings2, Stethoscope, Sun, X,
} from "lucide-react";
import { useEffect, useState, type ReactNode } from "react";
import { useTranslation } from "react-i18next";
import { NavLink, Outlet, useLocation, useNavigation } from "react-router";
import { languages, setLanguage, type Language } from "../i18n";
import { cx, IconButton, Menu } from "../ui/kit";
import { recall, remember } from "../ui/store";

type Theme = "light" | "dark" | "system";

export function applyTheme(theme: Theme) {
  const dark = theme === "dark" || (theme === "system" && matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.classList.toggle("dark", dark);
  remember("theme", theme === "system" ? null : theme);
  window.dispatchEvent(new Event("tidepool-theme"));
}

function useTheme(): [Theme, (theme: Theme) => void] {
  const [theme, setTheme] = useState<Theme>(() => {
    const kept = recall("theme");
    return kept === "light" || kept === "dark" ? kept : "system";
  });
  useEffect(() => {
    if (theme !== "system") return;
    const query = matchMedia("(prefers-color-scheme: dark)");
    const follow = () => applyTheme("system");
    query.addEventListener("change", follow);
    return () => query.removeEventListener("change", follow);
  }, [theme]);
  return [theme, (next) => { applyTheme(next); setTheme(next); }];
}

export function Preferences() {
  const { t, i18n } = useTranslation();
  const [theme, setTheme] = useTheme();
  return (
    <>
      <Menu align="start" trigger={<IconButton label={t("shell.theme")}>{theme === "light" ? <Sun /> : theme === "dark" ? <Moon /> : <Monitor />}</IconButton>}
        items={[
          { label: t("shell.light"), icon: <Sun />, checked: theme === "light", onSelect: () => setTheme("light") },
          { label: t("shell.dark"), icon: <Moon />, checked: theme === "dark", onSelect: () => setTheme("dark") },
          { label: t("shell.system"), icon: <Monitor />, checked: theme === "system", onSelect: () => setTheme("system") },
        ]} />
      <Menu align="start" trigger={<IconButton label={t("shell.language")}><Languages /></IconButton>}
        items={(Object.keys(languages) as Language[]).map((language) => ({ label: languages[language], checked: i18n.language === language, onSelect: () => void setLanguage(language) }))} />
    </>
  );
}

function NavItem({ to, icon, label, onClick }: { to: string; icon: ReactNode; label: string; onClick: () => void }) {
  return (
    <NavLink to={to} onClick={onClick}
      className={({ isActive }) => cx("flex items-center gap-2.5 rounded-md px-2.5 py-1.5 text-sm [&_svg]:size-4", isActive ? "bg-accent-soft font-medium text-accent" : "text-soft hover:bg-sunken hover:text-ink")}>
      {icon}{label}
    </NavLink>
  );
}

export function Shell() {
  const { t } = useTranslation();
  const [open, setOpen] = useState(false);
  const location = useLocation();
  const navigation = useNavigation();
  useEffect(() => setOpen(false), [location.pathname]);
  useEffect(() => {
    if (!open) return;
    const close = (event: KeyboardEvent) => { if (event.key === "Escape") setOpen(false); };
    addEventListener("keydown", close);
    return () => removeEventListener("keydown", close);
  }, [open]);
  const close = () => setOpen(false);
  return (
    <div className="flex min-h-dvh">
      <a href="#main" className="sr-only z-50 rounded-md bg-accent px-3 py-2 text-on-accent focus:not-sr-only focus:fixed focus:top-2 focus:left-2">{t("shell.skip")}</a>
      {open && <div className="fixed inset-0 z-30 bg-black/40 lg:hidden" onClick={close} aria-hidden />}
      <nav aria-label={t("shell.navigation")} id="navigation"
        className={cx("fixed inset-y-0 left-0 z-40 flex w-56 flex-col border-r border-line bg-panel transition-transform lg:sticky lg:top-0 lg:h-dvh lg:translate-x-0", open ? "translate-x-0" : "-translate-x-full max-lg:invisible")}>
        <div className="flex h-12 items-center gap-2 px-4">
          <img src="/tidepool.svg" alt="" className="size-5" />
          <span className="grow font-semibold tracking-tight">Tidepool</span>
          <IconButton label={t("common.close")} className="lg:hidden" onClick={close}><X /></IconButton>
        </div>
        <div className="grow space-y-4 overflow-y-auto px-2 py-2">
          <div className="space-y-0.5">
            <NavItem to="/chat" icon={<MessageSquare />} label={t("nav.chat")} onClick={close} />
            <NavItem to="/compare" icon={<Columns2 />} label={t("nav.compare")} onClick={close} />
            <NavItem to="/playground" icon={<FlaskConical />} label={t("nav.playground")} onClick={close} />
          </div>
          <div className="space-y-0.5">
            <NavItem to="/overview" icon={<Activity />} label={t("nav.overview")} onClick={close} />
            <NavItem to="/models" icon={<Boxes />} label={t("nav.models")} onClick={close} />
            <NavItem to="/pool" icon={<ChartGantt />} label={t("nav.pool")} onClick={close} />
            <NavItem to="/planner" icon={<PackageSearch />} label={t("nav.planner")} onClick={close} />
          </div>
          <div className="space-y-0.5">
            <NavItem to="/settings" icon={<Settings2 />} label={t("nav.settings")} onClick={close} />
            <NavItem to="/health" icon={<Stethoscope />} label={t("nav.health")} onClick={close} />
          </div>
        </div>
        <div className="flex items-center gap-1 border-t border-line px-3 py-2"><Preferences /></div>
      </nav>
      <div className="flex min-w-0 grow flex-col">
        <header className="sticky top-0 z-20 flex h-12 items-center gap-2 border-b border-line bg-panel px-3 lg:hidden">
          <IconButton label={t("shell.menu")} aria-expanded={open} aria-controls="navigation" onClick={() => setOpen(true)}><MenuIcon /></IconButton>
          <span className="font-semibold">Tidepool</span>
        </header>
        <main id="main" tabIndex={-1} aria-busy={navigation.state === "loading"} className="min-w-0 grow outline-none"><Outlet /></main>
      </div>
    </div>
  );
}
