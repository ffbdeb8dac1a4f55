// Will a model fit, before it is downloaded? Bytes are estimates from the name: parameters times bits of the quantisation.
import type { CatalogueModel } from "../api/types";

// Bits a weight, with the scales of its blocks (GGUF's block sizes): Q4_0 is 18 bytes for 32 weights.
const bitsOf: [RegExp, number][] = [
  [/f32/i, 32], [/bf16|f16/i, 16], [/fp8/i, 8.1], [/q8_0/i, 8.5], [/q6_k/i, 6.5625], [/q5_1/i, 6], [/q5_0|q5_k/i, 5.6], [/q4_1/i, 5], [/q4_k/i, 4.85], [/q4_0|iq4_nl/i, 4.5], [/iq4_xs|mxfp4/i, 4.25], [/q3_k/i, 3.9], [/q2_k/i, 2.9],
];

// "135M", "8B", "30B-A3B", "8x7B" -> number of parameters (all of them: a mixture keeps every expert in memory).
export function parametersOf(text: string | undefined): number {
  const match = /(?:(\d+)\s*x\s*)?(\d+(?:\.\d+)?)\s*([KMBT])/i.exec(text ?? "");
  if (!match) return 0;
  const unit = { K: 1e3, M: 1e6, B: 1e9, T: 1e12 }[match[3]!.toUpperCase() as "K" | "M" | "B" | "T"];
  return (match[1] ? Number(match[1]) : 1) * Number(match[2]) * unit;
}

type Sized = Pick<CatalogueModel, "id" | "parameters" | "sources">;
export function bitsPerWeight(model: Pick<Sized, "id" | "sources">): number {
  const text = [model.id ?? "", ...(model.sources ?? [])].join(" ");
  // The name says it best; a GGUF without one is Q4_K_M by custom, a safetensors file 16 bits.
  for (const [pattern, bits] of bitsOf) if (pattern.test(model.id ?? "")) return bits;
  for (const [pattern, bits] of bitsOf) if (pattern.test(text)) return bits;
  return /gguf/i.test(text) ? 4.85 : 16;
}

export function estimatedBytes(model: Sized): number {
  return parametersOf(model.parameters) * bitsPerWeight(model) / 8;
}

// What the server asks of the pool for a model, as POST /api/v1/deployments/fit has it: weights, an eighth of them for KV and work
// space, and 64 MiB.
export function neededBytes(bytes: number): number {
  return bytes + bytes / 8 + 64 * 2 ** 20;
}
export function fits(bytes: number, poolBytes: number): boolean {
  return neededBytes(bytes) <= poolBytes;
}

// "qwen3:0.6b-q4_k_m" -> "qwen3:0.6b": what differs in its quantisation alone is one model in several sizes.
export function modelOf(id: string): string {
  return id.replace(/-(?:qat|q\d+_[a-z0-9_]+|iq\d+_[a-z]+|b?f16|f32|fp8|mxfp4)$/i, "");
}
// What its name or its source says; safetensors without one are 16 bits.
export function quantisationOf(model: CatalogueModel): string {
  for (const text of [model.id ?? "", ...(model.sources ?? [])]) {
    const found = /(?:^|[-_.:])(i?q\d+_[a-z0-9]+(?:_[a-z]+)?|bf16|f16|f32|fp8|mxfp4)(?=$|[-_.:])/i.exec(text.replace(/\.gguf$/i, ""));
    if (found) return /qat/i.test(text) || /qat/i.test(model.id ?? "") ? `${found[1]!.toUpperCase()} (QAT)` : found[1]!.toUpperCase();
  }
  return (model.sources ?? []).some((source) => /gguf/i.test(source)) ? "Q4_K_M" : (model.sources ?? []).some((source) => source.startsWith("pypi:")) ? "" : "BF16";
}

export interface ModelCard { name: string; variants: CatalogueModel[] }
// The catalogue as cards, in its order; of each model the smallest first.
export function cardsOf(all: CatalogueModel[]): ModelCard[] {
  const cards = new Map<string, CatalogueModel[]>();
  for (const model of all) cards.set(modelOf(model.id ?? ""), [...(cards.get(modelOf(model.id ?? "")) ?? []), model]);
  return [...cards].map(([name, variants]) => ({ name, variants: [...variants].sort((a, b) => estimatedBytes(a) - estimatedBytes(b)) }));
}

// The largest of the same family that fits; of any family if none does.
export function nearestThatFits(model: CatalogueModel, all: CatalogueModel[], poolBytes: number): CatalogueModel | null {
  const best = (list: CatalogueModel[]) => list
    .filter((other) => other.id !== model.id && estimatedBytes(other) > 0 && fits(estimatedBytes(other), poolBytes))
    .sort((a, b) => estimatedBytes(b) - estimatedBytes(a))[0] ?? null;
  const name = (one: CatalogueModel) => (one.id ?? "").split(":")[0];
  return best(all.filter((other) => name(other) === name(model))) ?? best(all.filter((other) => other.family === model.family));
}

// What to get first: of each model the largest that fits and still answers at reading speed; those for everything before those for
// code and sums, at most two of a family, the largest first.
export function suggestions(all: CatalogueModel[], poolBytes: number, memoryBytesPerS: number, most = 6): CatalogueModel[] {
  const readingTokensPerS = 7;
  const best = new Map<string, CatalogueModel>();
  for (const model of all) {
    const bytes = estimatedBytes(model);
    if (bytes === 0 || !fits(bytes, poolBytes) || /bert|roberta/i.test(model.family ?? "") || /embed|rerank|-base\b/i.test(model.id ?? "")) continue;
    if (memoryBytesPerS > 0 && expectedTokensPerS(bytes, memoryBytesPerS) < readingTokensPerS) continue;
    const name = (model.id ?? "").split(":")[0]!;
    const known = best.get(name);
    if (!known || estimatedBytes(known) < bytes) best.set(name, model);
  }
  const special = (model: CatalogueModel) => Number(/cod|math|scale|r1|sql|guard/i.test(model.id ?? ""));
  const sorted = [...best.values()].sort((a, b) => special(a) - special(b) || estimatedBytes(b) - estimatedBytes(a));
  const ofFamily = new Map<string, number>();
  const chosen = sorted.filter((model) => {
    const count = (ofFamily.get(model.family ?? "") ?? 0) + 1;
    ofFamily.set(model.family ?? "", count);
    return count <= 2;
  });
  return chosen.slice(0, most);
}

// Decoding reads every weight once a token: memory bandwidth over bytes bounds the speed of one stream.
export function expectedTokensPerS(bytes: number, memoryBytesPerS: number): number {
  return bytes > 0 ? memoryBytesPerS / bytes : 0;
}
