// The turns of one path, drawn only where they are seen: two thousand of them scroll like twenty.
import { useVirtualizer } from "@tanstack/react-virtual";
import { ArrowDown } from "lucide-react";
import { useEffect, useLayoutEffect, useRef, useState, type ReactNode } from "react";
import { useTranslation } from "react-i18next";
import { IconButton } from "../ui/kit";
import { Message, type MessageActions } from "./message";
import { branchesAt, isAnswering, type Tree } from "./tree";
import type { Turn } from "./types";

export function Thread({ path, tree, actions, footer }: { path: Turn[]; tree: Tree; actions: MessageActions; footer: ReactNode }) {
  const { t } = useTranslation();
  const box = useRef<HTMLDivElement>(null);
  const [pinned, setPinned] = useState(true);
  const virtual = useVirtualizer({
    count: path.length,
    getScrollElement: () => box.current,
    getItemKey: (index) => path[index]!.id,
    estimateSize: (index) => Math.min(2000, 70 + path[index]!.content.length / 3),
    overscan: 4,
  });
  const last = path.at(-1);
  const total = virtual.getTotalSize();
  // Stays at the end while one is there; who scrolled up is left alone.
  useLayoutEffect(() => {
    if (pinned && box.current) box.current.scrollTop = box.current.scrollHeight;
  }, [pinned, total, last?.content, last?.reasoning, last?.progress]);
  const first = path[0]?.id;
  useEffect(() => setPinned(true), [first]);
  return (
    <div className="relative flex min-h-0 grow flex-col">
      <div ref={box} tabIndex={0} role="log" aria-label={t("chat.conversation")} aria-live="off" className="min-h-0 grow overflow-y-auto px-4 [overflow-anchor:none]"
        onScroll={(event) => {
          const { scrollHeight, scrollTop, clientHeight } = event.currentTarget;
          setPinned(scrollHeight - scrollTop - clientHeight < 48);
        }}>
        <div className="relative mx-auto max-w-3xl" style={{ height: total }}>
          {virtual.getVirtualItems().map((item) => {
            const turn = path[item.index]!;
            const { siblings, index } = branchesAt(tree, turn);
            const elsewhere = siblings.some((one) => one.id !== turn.id && isAnswering(tree, one));
            return (
              <div key={item.key} data-index={item.index} ref={virtual.measureElement} className="absolute inset-x-0 top-0" style={{ transform: `translateY(${item.start}px)` }}>
                <Message turn={turn} index={index} count={siblings.length} elsewhere={elsewhere} last={item.index === path.length - 1} actions={actions} />
              </div>
            );
          })}
        </div>
      </div>
      {!pinned && <div className="pointer-events-none absolute inset-x-0 bottom-full mb-2 flex justify-center" style={{ bottom: "auto", top: "calc(100% - 3rem)" }}>
        <IconButton label={t("chat.toEnd")} className="pointer-events-auto border border-line bg-panel shadow" onClick={() => { setPinned(true); box.current?.scrollTo({ top: box.current.scrollHeight }); }}><ArrowDown /></IconButton>
      </div>}
      {footer}
    </div>
  );
}
