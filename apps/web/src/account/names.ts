// Names for the ids that usage is kept by: keys, members (users) and workspaces, as far as the caller may list them.
import { useMemo } from "react";
import { useTranslation } from "react-i18next";
import { useMay } from "../shell/session";
import { useCursorList } from "./lists";

export type NamedKind = "key" | "member" | "workspace";

const roles = ["none", "viewer", "developer", "workspace_admin", "admin", "owner", "operator"] as const;
export function useRoleName(): (role: string) => string {
  const { t } = useTranslation();
  return (role) => { const known = roles.find((one) => one === role); return known ? t(`role.${known}`) : role; };
}

export function useNames(): (kind: NamedKind, id: string) => string | undefined {
  const developer = useMay("developer");
  const admin = useMay("workspace_admin");
  const keys = useCursorList("/api/v1/keys", {}, { enabled: developer, limit: 1000 });
  const members = useCursorList("/api/v1/members", {}, { enabled: admin, limit: 1000 });
  const workspaces = useCursorList("/api/v1/workspaces", {}, { limit: 1000 });
  return useMemo(() => {
    const known = {
      key: new Map(keys.rows.map((one) => [one.id, one.name])),
      member: new Map(members.rows.map((one) => [one.user ?? one.id, one.name || one.email || one.id])),
      workspace: new Map(workspaces.rows.map((one) => [one.id, one.name])),
    };
    return (kind, id) => known[kind].get(id);
  }, [keys.rows, members.rows, workspaces.rows]);
}
