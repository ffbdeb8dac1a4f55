import { Download, MoreHorizontal, PanelLeft, Share2, SlidersHorizontal, X } from "lucide-react";
import { useCallback, useEffect, useMemo, useRef, useState } from "react";
import { useTranslation } from "react-i18next";
import { useQueryClient } from "@tanstack/react-query";
import { useNavigate, useParams } from "react-router";
import { ApiError } from "../api/client";
import { useMay } from "../shell/session";
import { cx, Empty, ErrorNote, IconButton, Loading, Menu } from "../ui/kit";
import { recall, remember } from "../ui/store";
import { conversationPath, createConversation, sendTurn, stopTurn, useChangeConversation, useConversation } from "./api";
import { Composer, type Draft } from "./composer";
import { ConversationList } from "./list";
import type { MessageActions } from "./message";
import { firstModel, ModelPicker, NoModels, useChatModels } from "./model_picker";
import { ChatSettings } from "./settings_panel";
import { ShareDialog } from "./share";
import { Thread } from "./thread";
import { applyEvent, branchesAt, newestLeaf, pathTo, treeOf } from "./tree";
import type { Conversation, SamplingSettings, Turn } from "./types";

function download(path: string) {
  const link = document.createElement("a");
  link.href = path;
  link.download = "";
  link.click();
}

export function ChatPage() {
  const { t } = useTranslation();
  const { id } = useParams();
  const navigate = useNavigate();
  const client = useQueryClient();
  const { data: conversation, error, isPending, refetch, connected } = useConversation(id);
  const models = useChatModels();
  const change = useChangeConversation();
  const [listOpen, setListOpen] = useState(false);
  const [settingsOpen, setSettingsOpen] = useState(false);
  const [shareOpen, setShareOpen] = useState(false);
  const [problem, setProblem] = useState<unknown>(null);
  const mayUse = useMay("developer");
  const [fresh, setFresh] = useState<{ model: string; system: string; sampling: SamplingSettings }>({ model: "", system: "", sampling: {} });

  const model = id ? conversation?.model ?? "" : fresh.model || firstModel(models.data, recall("model"));
  const system = id ? conversation?.system ?? "" : fresh.system;
  const sampling = id ? conversation?.sampling ?? {} : fresh.sampling;
  const known = models.data?.find((one) => one.id === model);
  const contextTokens = (known?.engine as { context_length?: number } | undefined)?.context_length || known?.context_length || 0;
  const tree = useMemo(() => treeOf(conversation?.turns ?? []), [conversation?.turns]);
  const path = useMemo(() => pathTo(tree, conversation?.leaf ?? null), [tree, conversation?.leaf]);
  const running = path.find((turn) => turn.state === "running");
  const usage = path.findLast((turn) => turn.usage)?.usage;
  const costs = useMemo(() => (conversation?.turns ?? []).map((turn) => turn.cost), [conversation?.turns]);
  const usedTokens = usage ? usage.prompt_tokens + usage.completion_tokens : 0;

  useEffect(() => { document.title = `${conversation?.title || t("nav.chat")} · Tidepool`; }, [conversation?.title, t]);
  useEffect(() => setProblem(null), [id]);

  // What was sent is shown when the server has it; its events follow.
  const took = useCallback((conversationId: string, turns: Turn[]) => {
    client.setQueryData<Conversation>(["conversation", conversationId], (old) => {
      if (!old) return old;
      // An event may have been faster than this answer: it knows more.
      const added = turns.filter((turn) => !old.turns.some((one) => one.id === turn.id));
      return { ...added.reduce((state, turn) => applyEvent(state, { event: "turn", turn }, state.sequence), old), leaf: turns.at(-1)?.id ?? old.leaf };
    });
    void client.invalidateQueries({ queryKey: ["conversations"] });
  }, [client]);

  const attempt = useCallback(async <T,>(work: () => Promise<T>): Promise<T> => {
    setProblem(null);
    try {
      return await work();
    } catch (failure) {
      setProblem(failure);
      throw failure;
    }
  }, []);

  const send = (draft: Draft) => attempt(async () => {
    const body = { content: draft.text, files: draft.files, model };
    remember("model", model);
    if (id) {
      const reply = await sendTurn(id, { ...body, parent: path.at(-1)?.id ?? null });
      took(id, reply.turns);
      return id;
    }
    const created = await createConversation({ model, system, sampling });
    const reply = await sendTurn(created.id, { ...body, parent: null });
    client.setQueryData<Conversation>(["conversation", created.id], { ...created, turns: [] });
    took(created.id, reply.turns);
    return created.id;
  });

  const latest = useRef({ id, tree, path, model, attempt, took });
  latest.current = { id, tree, path, model, attempt, took };
  // One object for good, so that messages that did not change are not drawn again.
  const actions = useMemo<MessageActions>(() => ({
    onBranch: (turn, by) => {
      const now = latest.current;
      const { siblings, index } = branchesAt(now.tree, turn);
      const next = siblings[index + by];
      if (now.id && next) change.mutate({ id: now.id, change: { leaf: newestLeaf(now.tree, next.id)?.id ?? next.id } });
    },
    onRegenerate: (turn) => {
      const now = latest.current;
      void now.attempt(async () => {
        if (now.id) now.took(now.id, (await sendTurn(now.id, { parent: turn.parent, model: now.model })).turns);
      }).catch(() => {});
    },
    onContinue: (turn) => {
      const now = latest.current;
      void now.attempt(async () => {
        if (!now.id) return;
        await sendTurn(now.id, { parent: turn.parent, continue: turn.id, model: turn.model });
      }).catch(() => {});
    },
    onEdit: (turn, content) => {
      const now = latest.current;
      return now.attempt(async () => {
        if (now.id) now.took(now.id, (await sendTurn(now.id, { parent: turn.parent, content, files: turn.files, model: now.model })).turns);
      });
    },
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }), []);

  const chooseModel = (next: string) => {
    remember("model", next);
    if (id) change.mutate({ id, change: { model: next } });
    else setFresh((old) => ({ ...old, model: next }));
  };
  const saveSettings = (nextSystem: string, nextSampling: SamplingSettings) => {
    if (id) change.mutate({ id, change: { system: nextSystem, sampling: nextSampling } });
    else setFresh((old) => ({ ...old, system: nextSystem, sampling: nextSampling }));
  };
  const customised = system !== "" || Object.keys(sampling).length > 0;
  const composer = (
    <div className="mx-auto w-full max-w-[50rem] px-4 pb-3">
      {!mayUse && <p className="pb-2 text-sm text-warn">{t("shell.viewerText")}</p>}
      {problem !== null && <div className="pb-2"><ErrorNote error={problem} /></div>}
      {models.error !== null && !models.data && <div className="pb-2"><ErrorNote error={models.error} retry={() => void models.refetch()} /></div>}
      {id && !connected && <p role="status" className="pb-1 text-xs text-warn">{t("chat.reconnecting")}</p>}
      <Composer key={id ?? "new"} id={id ?? "new"} model={model} running={running !== undefined} usedTokens={usedTokens} contextTokens={contextTokens} costs={costs} onSend={send}
        onSent={(conversation) => { if (conversation !== id) void navigate(`/chat/${conversation}`); }}
        disabled={!mayUse || (id !== undefined && !conversation)} onStop={() => { if (id && running) void attempt(async () => { await stopTurn(id, running.id); }).catch(() => {}); }} />
      {/* Where it is read before the first word is typed; not under every answer. */}
      {!id && <p className="mt-1.5 text-center text-xs text-faint">{t("chat.privacy")}</p>}
    </div>
  );
  return (
    <div className="flex h-[calc(100dvh-3rem)] min-h-0 lg:h-dvh">
      {listOpen && <div className="fixed inset-0 z-20 bg-black/40 md:hidden" aria-hidden onClick={() => setListOpen(false)} />}
      <aside aria-label={t("chat.conversations")} className={cx("w-64 shrink-0 border-r border-line bg-ground max-md:fixed max-md:inset-y-0 max-md:left-0 max-md:z-30 max-md:w-72 max-md:pt-12", !listOpen && "max-md:hidden")}>
        <ConversationList current={id} onOpen={() => setListOpen(false)} />
      </aside>
      <section aria-label={conversation?.title || t("chat.new")} className="flex min-w-0 grow flex-col">
        <header className="flex h-12 shrink-0 items-center gap-1 border-b border-line px-2">
          <IconButton label={t("chat.conversations")} className="md:hidden" aria-expanded={listOpen} onClick={() => setListOpen(!listOpen)}>{listOpen ? <X /> : <PanelLeft />}</IconButton>
          <h1 className="sr-only">{conversation?.title || t("chat.new")}</h1>
          <div className="max-w-[75%] min-w-0"><ModelPicker value={model} onChange={chooseModel} /></div>
          <span className="min-w-0 grow basis-0 truncate px-2 text-center text-sm text-soft max-sm:invisible">{conversation?.title}</span>
          <IconButton label={t("chat.settings")} className={customised ? "text-accent" : ""} onClick={() => setSettingsOpen(true)}><SlidersHorizontal /></IconButton>
          {id && (
            <IconButton label={t("share.title")} onClick={() => setShareOpen(true)}><Share2 /></IconButton>
          )}
          {id && (
            <Menu trigger={<IconButton label={t("chat.export")}><MoreHorizontal /></IconButton>} items={[
              { label: t("chat.exportMarkdown"), icon: <Download />, onSelect: () => download(`${conversationPath(id)}/export?format=markdown`) },
              { label: t("chat.exportJson"), icon: <Download />, onSelect: () => download(`${conversationPath(id)}/export?format=json`) },
            ]} />
          )}
        </header>
        {!id ? (
          <div className="flex min-h-0 grow flex-col justify-center overflow-y-auto">
            <div className="mx-auto w-full max-w-3xl px-4 pb-6 text-center">
              <p className="text-xl font-semibold tracking-tight">{t("chat.welcome")}</p>
              <p className="mt-1 text-soft">{models.data?.length === 0 ? <NoModels /> : t("chat.welcomeText")}</p>
            </div>
            {composer}
          </div>
        ) : isPending ? <div className="mx-auto w-full max-w-3xl grow p-6"><Loading rows={5} /></div>
          : error ? <div className="mx-auto w-full max-w-3xl grow p-6">{error instanceof ApiError && error.status === 404 ? <Empty title={t("chat.gone")} /> : <ErrorNote error={error} retry={() => void refetch()} />}</div>
            : <Thread key={id} path={path} tree={tree} actions={actions} footer={composer} />}
      </section>
      {id && <ShareDialog id={id} leaf={path.at(-1)?.id ?? null} open={shareOpen} onClose={() => setShareOpen(false)} />}
      <ChatSettings open={settingsOpen} system={system} sampling={sampling} onSave={saveSettings} onClose={() => setSettingsOpen(false)} />
    </div>
  );
}
