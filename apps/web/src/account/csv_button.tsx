// Saves a table as CSV, whole: not only the rows that were looked at.
import { Download } from "lucide-react";
import { useEffect, useRef, useState } from "react";
import { useTranslation } from "react-i18next";
import type { RowOf } from "../api/client";
import { grouped } from "../ui/format";
import { Button, ErrorNote } from "../ui/kit";
import { allRows, type CursorPath, csvOf, saveText } from "./lists";

const mostRows = 100_000;  // as the server's own export of a bill

// `text`: what is saved, and of how many rows it is where there were more.
export interface Csv { text: string; cutAt?: number }
export type MakeCsv = (onProgress: (rows: number) => void, signal: AbortSignal) => Promise<Csv>;

export function listCsv<P extends CursorPath>(path: P, query: Record<string, string>, names: string[], order: (rows: RowOf<P>[]) => RowOf<P>[] = (rows) => rows): MakeCsv {
  return async (onProgress, signal) => {
    const { rows, whole } = await allRows(path, query, { most: mostRows, onProgress, signal });
    return { text: csvOf(names, order(rows) as Record<string, unknown>[]), ...(whole ? {} : { cutAt: rows.length }) };
  };
}

export function CsvButton({ file, make, disabled }: { file: string; make: MakeCsv; disabled: boolean }) {
  const { t } = useTranslation();
  const [rows, setRows] = useState<number | null>(null);
  const [cutAt, setCutAt] = useState(0);
  const [problem, setProblem] = useState<unknown>(null);
  const work = useRef<AbortController | null>(null);
  useEffect(() => () => work.current?.abort(), []);
  const save = async () => {
    const abort = new AbortController();
    work.current = abort;
    setRows(0);
    setCutAt(0);
    setProblem(null);
    try {
      const csv = await make(setRows, abort.signal);
      setCutAt(csv.cutAt ?? 0);
      saveText(file, "text/csv", csv.text);
    } catch (failure) {
      if (!abort.signal.aborted) setProblem(failure);
    } finally {
      setRows(null);
    }
  };
  return (
    <>
      <Button disabled={disabled} busy={rows !== null} onClick={() => void save()}>
        {rows === null && <Download className="size-4" aria-hidden />}{rows ? t("common.csvRows", { formatted: grouped(rows) }) : t("common.csv")}
      </Button>
      {cutAt > 0 && <p role="status" className="basis-full text-sm text-warn">{t("common.csvCut", { formatted: grouped(cutAt) })}</p>}
      {problem !== null && <div className="basis-full"><ErrorNote error={problem} /></div>}
    </>
  );
}
