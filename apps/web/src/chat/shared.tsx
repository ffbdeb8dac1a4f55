// A shared conversation, for whoever holds its link: no account, nothing to change. The secret stands behind the #, which no
// server's log sees. What was said is hostile text here as in the chat.
import { FileText } from "lucide-react";
import { useEffect, useState } from "react";
import { useTranslation } from "react-i18next";
import { useQuery } from "@tanstack/react-query";
import { ApiError, postJson } from "../api/client";
import { Preferences } from "../shell/shell";
import { formatTime } from "../ui/format";
import { Empty, ErrorNote, Loading } from "../ui/kit";
import { MarkdownText, Reasoning } from "./message";

export function SharedPage() {
  const { t } = useTranslation();
  const [token, setToken] = useState(() => location.hash.slice(1));
  useEffect(() => {
    const changed = () => setToken(location.hash.slice(1));
    addEventListener("hashchange", changed);
    return () => removeEventListener("hashchange", changed);
  }, []);
  const { data, error, isPending, refetch } = useQuery({ enabled: token !== "", queryKey: ["shared", token], queryFn: ({ signal }) => postJson("/api/v1/shared", { token }, { quiet: true, signal }), staleTime: Infinity, refetchOnWindowFocus: false });
  const title = data?.title || t("share.untitled");
  useEffect(() => { document.title = `${data ? title : t("share.page")} · Tidepool`; }, [data, title, t]);
  const gone = token === "" || (error instanceof ApiError && error.status === 404);
  return (
    <div className="flex min-h-dvh flex-col">
      <header className="flex items-center gap-2.5 border-b border-line px-4 py-2"><img src="/tidepool.svg" alt="" className="size-6" /><span className="grow text-sm text-soft">{t("share.page")}</span><Preferences /></header>
      <main className="mx-auto w-full max-w-3xl grow px-4 py-6">
        {gone ? <><h1 className="sr-only">{t("share.page")}</h1><Empty title={t("share.gone")}>{t("share.goneText")}</Empty></>
          : error ? <><h1 className="sr-only">{t("share.page")}</h1><ErrorNote error={error} retry={() => void refetch()} /></>
          : isPending ? <><h1 className="sr-only">{t("share.page")}</h1><Loading rows={5} /></> : (
            <>
              <h1 className="break-words">{title}</h1>
              <p className="mt-1 mb-6 text-sm text-faint">{t("share.asOf", { time: formatTime(data.created_at ?? 0) })} · {t("share.until", { time: formatTime(data.expires_at ?? 0) })}</p>
              <ol className="space-y-6">
                {(data.turns ?? []).map((turn, at) => (
                  <li key={at} data-role={turn.role}>
                    {turn.role === "user" ? (
                      <div className="ml-auto w-fit max-w-full rounded-xl bg-sunken px-4 py-2 sm:max-w-[85%]">
                        <span className="sr-only">{t("share.person")}</span>
                        {(turn.files ?? []).map((name, file) => <p key={file} className="flex items-center gap-1.5 text-sm text-soft"><FileText className="size-4 shrink-0" aria-hidden /><span className="truncate">{name}</span></p>)}
                        <div className="break-words whitespace-pre-wrap">{turn.content}</div>
                      </div>
                    ) : (
                      <div className="min-w-0">
                        <p className="mb-1 text-xs text-faint">{turn.model}</p>
                        {turn.reasoning && <Reasoning text={turn.reasoning} thinking={false} seconds={undefined} />}
                        <MarkdownText text={turn.content ?? ""} />
                      </div>
                    )}
                  </li>
                ))}
              </ol>
            </>
          )}
      </main>
    </div>
  );
}
