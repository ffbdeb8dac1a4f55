// Memory by owner as a picture that moves. Every byte the server's ledger names is in it, exactly once.
import { useTranslation } from "react-i18next";
import type { Owner, PoolState } from "../api/types";
import { modelColor, modelTint } from "../ui/colors";
import { formatBytes } from "../ui/format";
import { cx, Tip } from "../ui/kit";

export interface Piece extends Owner { color: string; pattern: boolean }

// Models first, by name, each one's weights before its KV; then what belongs to no model; the reserve, which makes way for
// all others, stands last, beside what is free.
export function piecesOf(owners: Owner[], modelIds: string[], dark: boolean): Piece[] {
  const models = new Set(modelIds);
  const rank = (owner: Owner) => (owner.kind === "reserve" ? 2 : models.has(owner.owner) ? 0 : 1);
  const kinds = ["weights", "kv", "state", "scratch", "reserve"];
  return owners
    .filter((owner) => owner.bytes > 0)
    .sort((a, b) => rank(a) - rank(b) || a.owner.localeCompare(b.owner) || kinds.indexOf(a.kind) - kinds.indexOf(b.kind))
    .map((owner) => ({
      ...owner,
      color: !models.has(owner.owner) ? (owner.kind === "reserve" ? "var(--sunken)" : "var(--line-strong)") : owner.kind === "weights" ? modelColor(owner.owner, dark) : modelTint(owner.owner, dark),
      pattern: owner.kind === "reserve",
    }));
}

// What it is, and whose, where that says more: the names of the engine's own parts say little.
function useWords(): (piece: Owner) => { owner: string; kind: string } {
  const { t } = useTranslation();
  return ({ owner, kind }) => {
    const part = kind === "scratch" ? parts.find((one) => one === owner) : undefined;
    return { owner: kind === "reserve" ? "" : part ? t(`memory.part_${part}`) : owner, kind: t(`memory.${kind}`) };
  };
}
const parts = ["device", "sampling", "workspace"] as const;

export function MemoryPicture({ state, dark }: { state: PoolState; dark: boolean }) {
  const { t } = useTranslation();
  const words = useWords();
  const said = (piece: Owner, between: string) => [words(piece).owner, words(piece).kind, formatBytes(piece.bytes)].filter(Boolean).join(between);
  const { limit_bytes: limit, used_bytes: used, owners } = state.memory;
  const pieces = piecesOf(owners, state.models.map((model) => model.id), dark);
  const whole = Math.max(limit, used);
  const free = Math.max(0, limit - used);
  return (
    <figure>
      <div role="list" aria-label={t("memory.picture")} data-testid="memory" data-used={used} data-limit={limit}
        className="flex h-14 w-full overflow-hidden rounded-md border border-line bg-panel">
        {pieces.map((piece) => (
          <Tip key={`${piece.owner}/${piece.kind}`} text={said(piece, " · ")}>
            <div role="listitem" tabIndex={0} data-owner={piece.owner} data-kind={piece.kind} data-bytes={piece.bytes}
              aria-label={said(piece, ", ")}
              className={cx("h-full min-w-px overflow-hidden border-r border-panel transition-[width] duration-500", piece.pattern && "hatched")}
              style={{ width: `${(piece.bytes / whole) * 100}%`, backgroundColor: piece.color }} />
          </Tip>
        ))}
        {free > 0 && <div role="listitem" aria-label={`${t("memory.free")}, ${formatBytes(free)}`} className="h-full grow" />}
      </div>
      <figcaption className="mt-2 flex flex-wrap gap-x-4 gap-y-1 text-xs text-soft">
        {pieces.filter((piece) => piece.bytes / whole > 0.002).map((piece) => (
          <span key={`${piece.owner}/${piece.kind}`} className="inline-flex items-center gap-1.5">
            <span className={cx("size-2.5 rounded-sm border border-line", piece.pattern && "hatched")} style={{ backgroundColor: piece.color }} aria-hidden />
            {words(piece).owner} <span className="text-faint">{words(piece).kind}</span> {formatBytes(piece.bytes)}
          </span>
        ))}
        <span className="inline-flex items-center gap-1.5">
          <span className="size-2.5 rounded-sm border border-line-strong" aria-hidden />{t("memory.free")} {formatBytes(free)}
        </span>
      </figcaption>
    </figure>
  );
}
