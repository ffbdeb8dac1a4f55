// node embed.mjs DIST OUT: the bundle in DIST as OUT/web_assets.cc (a table) and OUT/web_assets.bin (the compressed bytes).
import { createHash } from "node:crypto";
import { readdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import path from "node:path";
import { brotliCompressSync, constants, gzipSync } from "node:zlib";

const [dist, out] = process.argv.slice(2);
const types = {
  ".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8",
  ".svg": "image/svg+xml", ".png": "image/png", ".woff2": "font/woff2", ".webmanifest": "application/manifest+json",
};

const parts = [];
let offset = 0;
const put = (bytes) => {
  const at = offset;
  parts.push(bytes);
  offset += bytes.length;
  return [at, bytes.length];
};

const files = readdirSync(dist, { recursive: true, withFileTypes: true })
  .filter((entry) => entry.isFile())
  .map((entry) => path.join(entry.parentPath ?? entry.path, entry.name));
const rows = files
  .map((file) => ({ file, url: "/" + path.relative(dist, file).split(path.sep).join("/") }))
  .sort((a, b) => (a.url < b.url ? -1 : 1))
  .map(({ file, url }) => {
    const type = types[path.extname(file)];
    if (!type) throw new Error(`no content type for ${url}: add it to embed.mjs`);
    const bytes = readFileSync(file);
    const gzip = gzipSync(bytes, { level: 9 });
    const brotli = brotliCompressSync(bytes, { params: { [constants.BROTLI_PARAM_QUALITY]: 11 } });
    const etag = createHash("sha256").update(bytes).digest("hex").slice(0, 20);
    const immutable = url.startsWith("/assets/");
    const [gzipAt, gzipSize] = put(gzip);
    const [brotliAt, brotliSize] = brotli.length < 0.95 * gzip.length ? put(brotli) : [0, 0];
    return `      {"${url}", "${type}", "\\"${etag}\\"", ${immutable}, Bytes(${gzipAt}, ${gzipSize}), Bytes(${brotliAt}, ${brotliSize})},`;
  });

const write = (name, content) => {
  writeFileSync(path.join(out, `${name}.part`), content);
  renameSync(path.join(out, `${name}.part`), path.join(out, name));
};
write("web_assets.bin", Buffer.concat(parts));
write("web_assets.cc", `// Made by apps/web/embed.mjs.
#include <array>

#include "gateway/web_app.h"

asm(R"(.pushsection .rodata,"a",@progbits
  .global tidepool_web_assets_bytes
  tidepool_web_assets_bytes:
  .incbin "${path.resolve(out, "web_assets.bin")}"
  .popsection)");
extern "C" const char tidepool_web_assets_bytes[];

namespace tidepool::gateway {

std::span<const WebAsset> WebAssets() {
  const auto Bytes = [](size_t offset, size_t size) { return std::string_view(tidepool_web_assets_bytes + offset, size); };
  static const auto kAssets = std::to_array<WebAsset>({
${rows.join("\n")}
  });
  return kAssets;
}

}  // namespace tidepool::gateway
`);
