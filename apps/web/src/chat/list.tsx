import { MoreHorizontal, Pencil, Pin, PinOff, Plus, Search, Trash2 } from "lucide-react";
import { useDeferredValue, useState } from "react";
import { useTranslation } from "react-i18next";
import { Link, useNavigate } from "react-router";
import { Button, Confirm, cx, Dialog, ErrorNote, Field, IconButton, Input, Loading, Menu } from "../ui/kit";
import { useChangeConversation, useConversations, useDeleteConversation } from "./api";
import type { Summary } from "./types";

export function ConversationList({ current, onOpen }: { current: string | undefined; onOpen: () => void }) {
  const { t } = useTranslation();
  const navigate = useNavigate();
  const [search, setSearch] = useState("");
  const query = useDeferredValue(search.trim());
  const list = useConversations(query);
  const change = useChangeConversation();
  const remove = useDeleteConversation();
  const [renaming, setRenaming] = useState<Summary | null>(null);
  const [deleting, setDeleting] = useState<Summary | null>(null);
  const all = list.data?.pages.flatMap((page) => page.data) ?? [];
  const groups = [{ label: t("chat.pinned"), items: all.filter((one) => one.pinned) }, { label: t("chat.recent"), items: all.filter((one) => !one.pinned) }].filter((group) => group.items.length > 0);
  return (
    <div className="flex h-full min-h-0 flex-col">
      <div className="space-y-2 p-2">
        <Link to="/chat" onClick={onOpen} className="flex min-h-8 items-center gap-2 rounded-md border border-line-strong bg-panel px-3 py-1 text-sm font-medium hover:bg-sunken"><Plus className="size-4" aria-hidden />{t("chat.new")}</Link>
        <div className="relative">
          <Search className="pointer-events-none absolute top-2 left-2.5 size-4 text-faint" aria-hidden />
          <Input type="search" aria-label={t("chat.search")} placeholder={t("chat.search")} value={search} onChange={(event) => setSearch(event.target.value)} className="pl-8" />
        </div>
      </div>
      <div className="min-h-0 grow overflow-y-auto px-2 pb-2" onScroll={(event) => {
        const box = event.currentTarget;
        if (box.scrollHeight - box.scrollTop - box.clientHeight < 200 && list.hasNextPage && !list.isFetchingNextPage) void list.fetchNextPage();
      }}>
        {list.isPending && <Loading rows={4} />}
        {list.error && <ErrorNote error={list.error} retry={() => void list.refetch()} />}
        {list.isSuccess && all.length === 0 && <p className="px-2 py-4 text-sm text-faint">{query ? t("chat.nothingFound") : t("chat.none")}</p>}
        {groups.map((group) => (
          <section key={group.label} aria-label={group.label} className="mb-3">
            <h3 className="px-2 py-1 text-xs text-faint">{group.label}</h3>
            <ul>
              {group.items.map((one) => (
                <li key={one.id} className={cx("group flex items-center rounded-md", one.id === current ? "bg-accent-soft" : "hover:bg-sunken")}>
                  <Link to={`/chat/${one.id}`} onClick={onOpen} aria-current={one.id === current ? "page" : undefined} title={one.title} className={cx("min-w-0 grow truncate px-2 py-1.5 text-sm", one.id === current && "font-medium text-accent")}>
                    {one.running && <span className="mr-1.5 inline-block size-2 animate-pulse rounded-full bg-accent" aria-label={t("chat.answering")} role="img" />}
                    {one.title || t("chat.untitled")}
                  </Link>
                  <Menu trigger={<IconButton label={t("chat.more", { title: one.title || t("chat.untitled") })} className="size-7 opacity-0 group-focus-within:opacity-100 group-hover:opacity-100 aria-expanded:opacity-100 [@media(hover:none)]:opacity-100"><MoreHorizontal /></IconButton>}
                    items={[
                      { label: one.pinned ? t("chat.unpin") : t("chat.pin"), icon: one.pinned ? <PinOff /> : <Pin />, onSelect: () => change.mutate({ id: one.id, change: { pinned: !one.pinned } }) },
                      { label: t("chat.rename"), icon: <Pencil />, onSelect: () => setRenaming(one) },
                      "line",
                      { label: t("common.delete"), icon: <Trash2 />, danger: true, onSelect: () => setDeleting(one) },
                    ]} />
                </li>
              ))}
            </ul>
          </section>
        ))}
        {list.isFetchingNextPage && <Loading rows={1} />}
      </div>
      <Dialog open={renaming !== null} onClose={() => setRenaming(null)} title={t("chat.rename")}>
        {renaming && (
          <form className="space-y-4" onSubmit={(event) => {
            event.preventDefault();
            const title = String(new FormData(event.currentTarget).get("title") ?? "").trim();
            change.mutate({ id: renaming.id, change: { title } }, { onSuccess: () => setRenaming(null) });
          }}>
            <Field label={t("chat.title")}>{(id) => <Input id={id} name="title" defaultValue={renaming.title} maxLength={200} autoFocus />}</Field>
            {change.error && <ErrorNote error={change.error} />}
            <div className="flex justify-end gap-2"><Button onClick={() => setRenaming(null)}>{t("common.cancel")}</Button><Button kind="primary" type="submit" busy={change.isPending}>{t("common.save")}</Button></div>
          </form>
        )}
      </Dialog>
      <Confirm open={deleting !== null} title={t("chat.deleteTitle")} action={t("common.delete")} busy={remove.isPending} error={remove.error}
        text={t("chat.deleteText", { title: deleting?.title || t("chat.untitled") })} onClose={() => setDeleting(null)}
        onConfirm={() => deleting && remove.mutate(deleting.id, { onSuccess: () => {
          if (deleting.id === current) void navigate("/chat");
          setDeleting(null);
        } })} />
    </div>
  );
}
