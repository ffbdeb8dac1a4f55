// Who is here. The cookie is the browser's to keep; this page knows only the name, the role and the token for writes.
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { createContext, useContext, useEffect, useState, type ReactNode } from "react";
import { ApiError, getJson, setCsrfToken, setWorkspace, whenSignedOut } from "../api/client";
import type { Session } from "../api/types";
import { ErrorNote, Loading } from "../ui/kit";
import { recall, remember } from "../ui/store";
import { SignInDialog, SignInPage } from "../account/sign_in";

export type Role = Session["role"];
const roles: readonly Role[] = ["none", "viewer", "developer", "workspace_admin", "admin", "owner", "operator"];

const Context = createContext<Session | null>(null);

export function useSession(): Session {
  const session = useContext(Context);
  if (!session) throw new Error("no session");
  return session;
}
export function atLeast(role: Role, least: Role): boolean {
  return roles.indexOf(role) >= roles.indexOf(least);
}
export function useMay(least: Role): boolean {
  return atLeast(useSession().role, least);
}

export function chooseWorkspace(id: string) {
  remember("workspace", id);
  location.assign("/");
}

export function SessionGate({ children }: { children: ReactNode }) {
  const client = useQueryClient();
  const [expired, setExpired] = useState(false);
  const query = useQuery({
    queryKey: ["session"], staleTime: 60_000, refetchOnWindowFocus: true,
    queryFn: async ({ signal }) => {
      const kept = recall("workspace") ?? "";
      setWorkspace(kept);
      let session: Session;
      try {
        session = await getJson("/api/v1/sessions/current", { signal, quiet: true });
      } catch (error) {
        // The workspace that was chosen last is not one's own any more.
        if (!kept || !(error instanceof ApiError) || (error.status !== 403 && error.status !== 404)) throw error;
        remember("workspace", null);
        setWorkspace("");
        session = await getJson("/api/v1/sessions/current", { signal, quiet: true });
      }
      setCsrfToken(session.csrf_token ?? "");
      return session;
    },
    retry: (count, error) => !(error instanceof ApiError && error.status > 0) && count < 5,
  });
  useEffect(() => whenSignedOut(() => setExpired(true)), []);
  const signedIn = () => {
    setExpired(false);
    return client.invalidateQueries();
  };
  const signedOut = query.error instanceof ApiError && query.error.status === 401;
  if (!query.data) {
    if (signedOut) return <SignInPage onSignedIn={signedIn} />;
    return <main className="mx-auto max-w-xl p-8">{(query.error ?? query.failureReason) ? <ErrorNote error={query.error ?? query.failureReason} retry={() => void query.refetch()} /> : <Loading rows={4} />}</main>;
  }
  // A session that ended does not take the page away: what was typed stays under the dialog.
  return (
    <Context.Provider value={query.data}>
      {children}
      <SignInDialog open={expired || signedOut} onSignedIn={signedIn} />
    </Context.Provider>
  );
}
