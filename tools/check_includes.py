#!/usr/bin/env python3
"""Reads every #include under src/ and fails on a call upwards, on a folder nobody listed, on heavy or private
third-party headers outside the folders that own them, and on floors that may not see each other.

usage: tools/check_includes.py [ROOT]
"""
import pathlib
import re
import sys

# Headers that cost seconds to compile, or that only one adapter may know.
OWNED = {
    r"^boost/": ["gateway"],
    r"^CLI/": ["cli"],
    r"^toml\+\+/": ["server"],
    r"^spdlog/": ["base"],
    r"^prometheus/": ["base"],
    r"^pcre2": ["models/text"],
    r"^utf8proc": ["models/text", "models/templates", "cli"],
    r"^curl/": ["platform/catalog", "platform/ledger", "cli"],
    r"^zip\.h": ["platform/catalog"],
    r"^sodium": ["platform/accounts", "platform/catalog", "platform/ledger"],
    r"^immintrin": ["chips"],
}
# The command line is a client of the API: it sees nothing of the server but base.
CLIENT_ONLY = {"cli": ["base", "cli"]}


def main() -> int:
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent)
    floors = [line.strip() for line in (root / "tools/floors.txt").read_text().splitlines()
              if line.strip() and not line.startswith("#")]
    rank = {name: index for index, name in enumerate(floors)}

    def folder_of(path: str):
        matches = [name for name in floors if path == name or path.startswith(name + "/")]
        return max(matches, key=len) if matches else None

    problems, files = [], 0
    for source in sorted((root / "src").rglob("*")):
        if source.suffix not in (".h", ".cc", ".inc"):
            continue
        files += 1
        relative = source.relative_to(root / "src").as_posix()
        here = folder_of(relative)
        if here is None:
            problems.append(f"src/{relative}: its folder is not in tools/floors.txt")
            continue
        for number, line in enumerate(source.read_text(errors="replace").splitlines(), 1):
            match = re.match(r'\s*#\s*include\s+(["<])([^">]+)[">]', line)
            if not match:
                continue
            kind, name = match.groups()
            place = f"src/{relative}:{number}"
            for pattern, owners in OWNED.items():
                if re.match(pattern, name) and here not in owners:
                    problems.append(f"{place}: <{name}> may be included only in {', '.join(owners)}")
            if kind == "<":
                continue
            if name.startswith(".") or not (root / "src" / name).exists():
                if not name.startswith("generated/"):
                    problems.append(f'{place}: "{name}" is not a path from src/')
                continue
            there = folder_of(name)
            if there is None:
                problems.append(f'{place}: "{name}" is in a folder that is not in tools/floors.txt')
            elif rank[there] > rank[here]:
                problems.append(f'{place}: {here} calls upwards into {there} ("{name}")')
            elif here in CLIENT_ONLY and there not in CLIENT_ONLY[here] and not relative.endswith("_test.cc"):
                problems.append(f'{place}: {here} may include only {", ".join(CLIENT_ONLY[here])} ("{name}")')
            elif there == "cli" and here not in ("cli", "server"):
                problems.append(f'{place}: only server may include cli')
    for problem in problems:
        print(problem)
    print(f"{files} files read, {len(problems)} problems")
    return 1 if problems or files == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
