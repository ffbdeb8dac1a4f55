// Saves what the server exports as CSV: whole, not only the rows that were looked at, and noted in the audit log. Asked for here
// rather than by a link, so that a refusal, and a file that ends before the list does, are told on the page.
import { Download } from "lucide-react";
import { useEffect, useRef, useState } from "react";
import { useTranslation } from "react-i18next";
import { send } from "../api/client";
import { grouped } from "../ui/format";
import { Button, ErrorNote } from "../ui/kit";

function save(name: string, content: Blob) {
  const url = URL.createObjectURL(content);
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

export function CsvButton({ file, from, disabled }: { file: string; from: string; disabled: boolean }) {
  const { t } = useTranslation();
  const [busy, setBusy] = useState(false);
  const [cutAt, setCutAt] = useState(0);
  const [problem, setProblem] = useState<unknown>(null);
  const work = useRef<AbortController | null>(null);
  useEffect(() => () => work.current?.abort(), []);
  const fetchFile = async () => {
    const abort = new AbortController();
    work.current = abort;
    setBusy(true);
    setCutAt(0);
    setProblem(null);
    try {
      const reply = await send("GET", from, undefined, { signal: abort.signal });
      const content = await reply.blob();
      // A body that was being read when the page was left.
      if (abort.signal.aborted) return;
      if (reply.headers.has("tidepool-next-cursor")) setCutAt(Number(reply.headers.get("tidepool-rows")));
      save(file, content);
    } catch (failure) {
      if (!abort.signal.aborted) setProblem(failure);
    } finally {
      setBusy(false);
    }
  };
  return (
    <>
      <Button disabled={disabled} busy={busy} onClick={() => void fetchFile()}>{!busy && <Download className="size-4" aria-hidden />}{t("common.csv")}</Button>
      {cutAt > 0 && <p role="status" className="basis-full text-sm text-warn">{t("common.csvCut", { formatted: grouped(cutAt) })}</p>}
      {problem !== null && <div className="basis-full"><ErrorNote error={problem} /></div>}
    </>
  );
}
