// What /api/v1/conversations speaks.
import type { ReplyOf, RowOf } from "../api/client";
import type { Progress } from "../api/types";

export type Summary = RowOf<"/api/v1/conversations">;
type Stored = ReplyOf<"/api/v1/conversations/{id}", "get">;
type StoredTurn = Stored["turns"][number];
export type SamplingSettings = Stored["sampling"];
export type AttachedFile = StoredTurn["files"][number];
export type TurnState = StoredTurn["state"];
// Not from the server: what it last said about a turn that has no text yet.
export type Turn = StoredTurn & { progress?: Progress | undefined };
export type Conversation = Omit<Stored, "turns"> & { turns: Turn[] };
