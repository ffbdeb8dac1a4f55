import { expect, test } from "vitest";
import { formatAgo, formatBytes, formatCount, formatPercent, formatSeconds } from "./format";

test("bytes keep three digits and a binary unit", () => {
  expect(formatBytes(0)).toBe("0 B");
  expect(formatBytes(1023)).toBe("1023 B");
  expect(formatBytes(1024)).toBe("1.00 KiB");
  expect(formatBytes(96688384)).toBe("92.2 MiB");
  expect(formatBytes(1024 ** 3 - 1)).toBe("1.00 GiB");
  expect(formatBytes(5 * 1024 ** 5)).toBe("5.00 PiB");
});

test("counts", () => {
  expect(formatCount(0)).toBe("0");
  expect(formatCount(9999)).toBe("9,999");
  expect(formatCount(134515008)).toBe("135 M");
  expect(formatCount(Number.NaN)).toBe("–");
});

test("durations and shares", () => {
  expect(formatSeconds(0.0412)).toBe("41.2 ms");
  expect(formatSeconds(3.456)).toBe("3.5 s");
  expect(formatSeconds(125)).toBe("2 min 5 s");
  expect(formatSeconds(-125)).toBe("-2 min 5 s");
  expect([119.7, 120, 3599.7, 5400].map(formatSeconds)).toEqual(["2 min", "2 min", "1 h", "1 h 30 min"]);
  expect(formatSeconds(90000)).toBe("1 d 1 h");
  expect(formatPercent(0.0004)).toBe("<0.1 %");
  expect(formatPercent(0.456)).toBe("46 %");
});

test("times are relative", () => {
  expect(formatAgo(1000, 1010)).toBe("now");
  expect(formatAgo(1000, 1000 + 180)).toBe("3 minutes ago");
  expect(formatAgo(0, 3 * 86400)).toBe("3 days ago");
});
