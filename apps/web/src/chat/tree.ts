// A conversation is a tree of turns; a page shows the way from a root to one leaf.
import type { EventOf } from "../api/client";
import type { Conversation, Turn } from "./types";

export interface Tree {
  byId: Map<string, Turn>;
  children: Map<string | null, Turn[]>;
}

export function treeOf(turns: Turn[]): Tree {
  const byId = new Map(turns.map((turn) => [turn.id, turn]));
  const children = new Map<string | null, Turn[]>();
  for (const turn of turns) {
    const parent = turn.parent !== null && byId.has(turn.parent) ? turn.parent : null;
    const list = children.get(parent);
    if (list) list.push(turn);
    else children.set(parent, [turn]);
  }
  return { byId, children };
}

// From the root to `leaf`; without one, to the newest.
export function pathTo(tree: Tree, leaf: string | null): Turn[] {
  let at = (leaf !== null ? tree.byId.get(leaf) : undefined) ?? newestLeaf(tree, null);
  const path: Turn[] = [];
  const seen = new Set<string>();
  while (at && !seen.has(at.id)) {
    seen.add(at.id);
    path.push(at);
    at = at.parent !== null ? tree.byId.get(at.parent) : undefined;
  }
  return path.reverse();
}

// Down from `id` (null: the roots), the newest branch each time.
export function newestLeaf(tree: Tree, id: string | null): Turn | undefined {
  let at = id === null ? undefined : tree.byId.get(id);
  for (;;) {
    const next: Turn | undefined = tree.children.get(at?.id ?? null)?.at(-1);
    if (!next || (at === undefined && id !== null)) return at;
    at = next;
  }
}

// The branches at a turn, and which one it is.
export function branchesAt(tree: Tree, turn: Turn): { siblings: Turn[]; index: number } {
  const siblings = tree.children.get(turn.parent !== null && tree.byId.has(turn.parent) ? turn.parent : null) ?? [turn];
  return { siblings, index: Math.max(0, siblings.findIndex((sibling) => sibling.id === turn.id)) };
}

// Whether a turn, or an answer to it, is being written.
export function isAnswering(tree: Tree, turn: Turn): boolean {
  return turn.state === "running" || (tree.children.get(turn.id)?.some((child) => child.state === "running") ?? false);
}

type Named<Name extends "turn" | "delta" | "progress" | "conversation"> = { event: Name } & EventOf<"ConversationEvents", Name>;
export type ConversationEvent = Named<"turn"> | Named<"delta"> | Named<"progress"> | Named<"conversation">;

// The conversation after an event. Objects that did not change stay the same ones, so that only what changed is drawn again.
export function applyEvent(conversation: Conversation, event: ConversationEvent, sequence: number): Conversation {
  switch (event.event) {
    case "turn": {
      const known = conversation.turns.some((turn) => turn.id === event.turn.id);
      const turns = known ? conversation.turns.map((turn) => (turn.id === event.turn.id ? event.turn : turn)) : [...conversation.turns, event.turn];
      return { ...conversation, turns, sequence, running: turns.some((turn) => turn.state === "running") };
    }
    case "delta":
      return {
        ...conversation, sequence,
        turns: conversation.turns.map((turn) => turn.id !== event.turn ? turn
          : { ...turn, content: turn.content + (event.content ?? ""), reasoning: turn.reasoning + (event.reasoning ?? ""), progress: undefined }),
      };
    case "progress": {
      const { event: _, turn: id, ...progress } = event;
      return { ...conversation, sequence, turns: conversation.turns.map((turn) => (turn.id === id ? { ...turn, progress } : turn)) };
    }
    case "conversation":
      return { ...conversation, ...event.conversation, turns: conversation.turns, sequence };
  }
}
