import { useMutation } from "@tanstack/react-query";
import { useEffect, useState } from "react";
import { useTranslation } from "react-i18next";
import { postJson, setCsrfToken } from "../api/client";
import { Button, Dialog, ErrorNote, Field, Input, Loading } from "../ui/kit";
import { Preferences } from "../shell/shell";
import { useRoleName } from "./names";

function SignInForm({ onSignedIn }: { onSignedIn: () => unknown }) {
  const { t } = useTranslation();
  const signIn = useMutation({
    mutationFn: (body: { email: string; password: string }) => postJson("/api/v1/sessions", body, { quiet: true }),
    onSuccess: (reply) => { setCsrfToken(reply.csrf_token); onSignedIn(); },
  });
  return (
    <form className="space-y-4" onSubmit={(event) => {
      event.preventDefault();
      const form = new FormData(event.currentTarget);
      signIn.mutate({ email: String(form.get("email")), password: String(form.get("password")) });
    }}>
      <Field label={t("signIn.email")}>{(id) => <Input id={id} name="email" type="email" autoComplete="username" required autoFocus />}</Field>
      <Field label={t("signIn.password")}>{(id) => <Input id={id} name="password" type="password" autoComplete="current-password" required />}</Field>
      {signIn.error && <ErrorNote error={signIn.error} />}
      <Button kind="primary" type="submit" className="w-full" busy={signIn.isPending}>{t("signIn.submit")}</Button>
    </form>
  );
}

function Frame({ title, children }: { title: string; children: React.ReactNode }) {
  useEffect(() => { document.title = `${title} · Tidepool`; }, [title]);
  return (
    <div className="flex min-h-dvh flex-col">
      <main className="mx-auto flex w-full max-w-sm grow flex-col justify-center px-4 py-8">
        <div className="mb-6 flex items-center gap-2.5"><img src="/tidepool.svg" alt="" className="size-8" /><h1>{title}</h1></div>
        {children}
      </main>
      <footer className="flex justify-center gap-1 p-3"><Preferences /></footer>
    </div>
  );
}

export function SignInPage({ onSignedIn }: { onSignedIn: () => unknown }) {
  const { t } = useTranslation();
  return (
    <Frame title={t("signIn.title")}>
      <SignInForm onSignedIn={onSignedIn} />
      <p className="mt-6 text-sm text-faint">{t("signIn.help")}</p>
    </Frame>
  );
}

export function SignInDialog({ open, onSignedIn }: { open: boolean; onSignedIn: () => unknown }) {
  const { t } = useTranslation();
  return (
    <Dialog open={open} title={t("signIn.again")}>
      <p className="mb-4 text-sm text-soft">{t("signIn.expired")}</p>
      <SignInForm onSignedIn={onSignedIn} />
    </Dialog>
  );
}

// The link's secret stands behind the #: it never reaches a server's log, and leaves the address bar at once.
export function SetupPage() {
  const { t } = useTranslation();
  const roleName = useRoleName();
  const [token] = useState(() => location.hash.slice(1));
  const find = useMutation({ mutationFn: () => postJson("/api/v1/links/find", { token }, { quiet: true }) });
  const use = useMutation({
    mutationFn: (body: { email?: string; name?: string; password: string }) => postJson("/api/v1/links/use", { token, ...body }, { quiet: true }),
    onSuccess: (reply) => {
      setCsrfToken(reply.csrf_token);
      // Whoever set the server up is offered models that fit, and may skip that; others come for the chat.
      location.assign(find.data?.kind === "setup" ? "/welcome" : "/chat");
    },
  });
  const { mutate } = find;
  useEffect(() => {
    if (token) mutate(undefined, { onSuccess: () => history.replaceState(null, "", "/setup") });
  }, [token, mutate]);
  if (!token) return <Frame title={t("setup.title")}><p>{t("setup.noToken")}</p><p className="mt-4"><a className="text-accent underline" href="/chat">{t("shell.toChat")}</a></p></Frame>;
  if (find.error) return <Frame title={t("setup.title")}><ErrorNote error={find.error} /><p className="mt-4 text-sm text-soft">{t("setup.linkHelp")}</p></Frame>;
  const link = find.data;
  if (!link) return <Frame title={t("setup.title")}><Loading rows={3} /></Frame>;
  return (
    <Frame title={t(`setup.${link.kind}`)}>
      <p className="mb-4 text-sm text-soft">{link.kind === "setup" ? t("setup.setupText") : link.kind === "invitation" ? t("setup.invitationText", { email: link.email, role: roleName(link.role ?? "") }) : t("setup.resetText", { email: link.email })}</p>
      <form className="space-y-4" onSubmit={(event) => {
        event.preventDefault();
        const form = new FormData(event.currentTarget);
        const text = (name: string) => String(form.get(name) ?? "").trim();
        use.mutate({ password: String(form.get("password")), ...(link.kind === "setup" ? { email: text("email") } : {}), ...(link.kind === "reset" ? {} : { name: text("name") }) });
      }}>
        {link.kind === "setup" && <Field label={t("signIn.email")}>{(id) => <Input id={id} name="email" type="email" autoComplete="username" required autoFocus />}</Field>}
        {link.kind !== "reset" && <Field label={t("setup.name")}>{(id) => <Input id={id} name="name" autoComplete="name" required maxLength={200} />}</Field>}
        <Field label={t("signIn.password")} help={t("setup.passwordHelp")}>{(id, note) => <Input id={id} aria-describedby={note} name="password" type="password" autoComplete="new-password" required minLength={10} />}</Field>
        {use.error && <ErrorNote error={use.error} />}
        <Button kind="primary" type="submit" className="w-full" busy={use.isPending}>{t("setup.submit")}</Button>
      </form>
      {link.kind === "setup" && <p className="mt-6 text-sm text-faint">{t("setup.after")}</p>}
    </Frame>
  );
}
