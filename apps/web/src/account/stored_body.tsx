// What one request said and was answered, where its workspace keeps that. Fetched when it is asked for: each reading is in the audit log.
import { useState } from "react";
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { useTranslation } from "react-i18next";
import { at, deleteJson, getJson } from "../api/client";
import { formatBytes, formatTime } from "../ui/format";
import { Button, Confirm, CopyButton, ErrorNote, Loading } from "../ui/kit";

// JSON for people; what was cut is no JSON any more, and stays as it is.
export function indented(text: string): string {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

function Text({ title, text }: { title: string; text: string }) {
  return (
    <div>
      <div className="flex items-center gap-2"><h4 className="grow text-xs font-medium text-faint">{title}</h4><CopyButton text={text} /></div>
      <pre tabIndex={0} className="max-h-80 overflow-auto rounded-md bg-sunken p-3 font-mono text-xs break-words whitespace-pre-wrap">{text}</pre>
    </div>
  );
}

export function StoredBodySection({ id, stored }: { id: string; stored: boolean }) {
  const { t } = useTranslation();
  const client = useQueryClient();
  const path = at("/api/v1/requests/{id}/body", { id });
  const [shown, setShown] = useState(false);
  const [removing, setRemoving] = useState(false);
  const body = useQuery({ queryKey: ["body", id], enabled: shown, staleTime: Infinity, gcTime: 0, retry: false, queryFn: ({ signal }) => getJson(path, { signal }) });
  const remove = useMutation({
    mutationFn: () => deleteJson(path),
    onSuccess: () => {
      setRemoving(false);
      return Promise.all([client.invalidateQueries({ queryKey: ["list", "/api/v1/requests"] }), client.invalidateQueries({ queryKey: ["request", id] })]);
    },
  });
  if (remove.isSuccess) return <p role="status" className="border-t border-line pt-4 text-sm">{t("bodies.gone")}</p>;
  if (!stored) return null;
  const answer = body.data?.answer;
  return (
    <section aria-label={t("bodies.body")} className="space-y-3 border-t border-line pt-4">
      <div className="flex flex-wrap items-center gap-2"><h3 className="mr-auto font-medium">{t("bodies.body")}</h3>
        {!shown && <Button onClick={() => setShown(true)}>{t("bodies.show")}</Button>}
        {body.data && <Button kind="danger" onClick={() => { remove.reset(); setRemoving(true); }}>{t("bodies.remove")}</Button>}
      </div>
      {!shown ? <p className="text-xs text-faint">{t("bodies.audited")}</p> : body.isPending ? <Loading rows={3} /> : body.error ? <ErrorNote error={body.error} /> : (
        <>
          <p className="text-xs text-faint">{t("bodies.until", { time: formatTime(body.data.expires_at) })} {t("bodies.redactions", { count: body.data.redactions })}</p>
          <Text title={`${t("bodies.request")} · ${formatBytes(body.data.request.bytes)}${body.data.request.cut ? ` · ${t("bodies.cut")}` : ""}`} text={indented(body.data.request.text)} />
          {(answer?.choices ?? []).map((choice, index) => (
            <div key={index} className="space-y-3">
              {choice.reasoning && <Text title={t("chat.reasoning")} text={choice.reasoning} />}
              {choice.content && <Text title={`${t("bodies.answer")}${(answer?.choices?.length ?? 0) > 1 ? ` ${index + 1}` : ""}${body.data.answer_cut ? ` · ${t("bodies.cut")}` : ""}`} text={choice.content} />}
              {choice.tool_calls.map((call, index) => <Text key={index} title={`${t("bodies.call")} ${call.name}`} text={indented(call.arguments)} />)}
            </div>
          ))}
          {answer?.embeddings && <p className="text-sm">{t("bodies.vectors", { count: answer.embeddings.count, dimensions: answer.embeddings.dimensions })}</p>}
          {answer?.scores && <Text title={t("bodies.scores")} text={answer.scores.map((score) => score.toPrecision(4)).join("\n")} />}
        </>
      )}
      <Confirm open={removing} title={t("bodies.removeTitle")} text={t("bodies.removeText")} action={t("bodies.remove")} busy={remove.isPending} error={remove.error} onClose={() => setRemoving(false)} onConfirm={() => remove.mutate()} />
    </section>
  );
}
