import { useQueryClient } from "@tanstack/react-query";
import {
  Activity, Boxes, Building2, ChartGantt, ChartNoAxesColumn, CircleUser, Columns2, FlaskConical, Gauge, KeyRound, Languages, ListTree, LogOut, Menu as MenuIcon, MessageSquare, Monitor, Moon, PackageSearch, Receipt, ScrollText,
  Settings2, Stethoscope, Sun, UserCog, Users, X,
} from "lucide-react";
import { useEffect, useState, type ReactNode } from "react";
import { useTranslation } from "react-i18next";
import { NavLink, Outlet, useLocation, useNavigate, useNavigation } from "react-router";
import { languages, setLanguage, type Language } from "../i18n";
import { cx, IconButton, Menu } from "../ui/kit";
import { at, deleteJson } from "../api/client";
import { useCursorList } from "../account/lists";
import { useRoleName } from "../account/names";
import { recall, remember } from "../ui/store";
import { atLeast, chooseWorkspace, useSession, type Role } from "./session";

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

type PageName = "chat" | "compare" | "playground" | "overview" | "models" | "pool" | "planner" | "requests" | "usage" | "bills" | "limits" | "keys" | "people" | "workspaces" | "audit" | "settings" | "health";
// What a role cannot open is not offered. The server decides; this only spares people doors that are shut.
const sections: { name: PageName; to?: string; icon: ReactNode; least: Role }[][] = [
  [{ name: "chat", icon: <MessageSquare />, least: "viewer" }, { name: "compare", icon: <Columns2 />, least: "developer" }, { name: "playground", icon: <FlaskConical />, least: "developer" }],
  [{ name: "overview", icon: <Activity />, least: "operator" }, { name: "models", icon: <Boxes />, least: "viewer" }, { name: "pool", icon: <ChartGantt />, least: "operator" }, { name: "planner", icon: <PackageSearch />, least: "operator" }],
  [{ name: "requests", icon: <ListTree />, least: "viewer" }, { name: "usage", icon: <ChartNoAxesColumn />, least: "viewer" }, { name: "bills", icon: <Receipt />, least: "admin" }, { name: "limits", icon: <Gauge />, least: "viewer" }],
  [{ name: "keys", icon: <KeyRound />, least: "developer" }, { name: "people", icon: <Users />, least: "workspace_admin" }, { name: "workspaces", icon: <Building2 />, least: "viewer" }, { name: "audit", icon: <ScrollText />, least: "admin" }],
  [{ name: "settings", icon: <Settings2 />, least: "operator" }, { name: "health", to: "doctor", icon: <Stethoscope />, least: "operator" }],
];

function Account() {
  const { t } = useTranslation();
  const session = useSession();
  const client = useQueryClient();
  const navigate = useNavigate();
  const workspaces = useCursorList("/api/v1/workspaces", {}, { enabled: session.workspaces.length > 1, limit: 1000 });
  const roleName = useRoleName();
  if (session.session === null) return <span className="min-w-0 text-xs text-balance text-faint">{t("shell.openServer")}</span>;
  const signOut = () => void deleteJson(at("/api/v1/sessions/{id}", { id: "current" })).finally(() => { client.clear(); location.assign("/chat"); });
  return (
    <Menu align="start" trigger={<IconButton label={`${t("shell.account")}: ${session.user?.email ?? ""}`}><CircleUser /></IconButton>} items={[
      { label: `${session.user?.name || session.user?.email || ""} · ${roleName(session.role)}`, disabled: true, onSelect: () => {} },
      ...(session.workspaces.length > 1 ? ["line" as const, ...session.workspaces.map((one) => ({ label: workspaces.rows.find((known) => known.id === one.id)?.name ?? one.id, checked: one.id === session.workspace, onSelect: () => chooseWorkspace(one.id) }))] : []),
      "line", { label: t("profile.title"), icon: <UserCog />, onSelect: () => void navigate("/account") }, { label: t("shell.signOut"), icon: <LogOut />, onSelect: signOut },
    ]} />
  );
}

export function Shell() {
  const { t } = useTranslation();
  const session = useSession();
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
        className={cx("fixed inset-y-0 left-0 z-40 flex w-56 shrink-0 flex-col border-r border-line bg-panel transition-transform lg:sticky lg:top-0 lg:h-dvh lg:translate-x-0", open ? "translate-x-0" : "-translate-x-full max-lg:invisible")}>
        <div className="flex h-12 items-center gap-2 px-4">
          <img src="/tidepool.svg" alt="" className="size-5" />
          <span className="grow font-semibold tracking-tight">Tidepool</span>
          <IconButton label={t("common.close")} className="lg:hidden" onClick={close}><X /></IconButton>
        </div>
        <div className="grow space-y-4 overflow-y-auto px-2 py-2">
          {sections.map((items, index) => {
            const seen = items.filter((item) => atLeast(session.role, item.least));
            return seen.length > 0 && <div key={index} className="space-y-0.5">{seen.map((item) => <NavItem key={item.name} to={`/${item.to ?? item.name}`} icon={item.icon} label={t(`nav.${item.name}`)} onClick={close} />)}</div>;
          })}
        </div>
        <div className="flex items-center gap-1 border-t border-line px-3 py-2"><Account /><span className="grow" /><Preferences /></div>
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
