#!/usr/bin/env python3
"""The documents are there, say what they must, and do not point at what is not in the tree."""
import pathlib
import re
import subprocess
import sys

root = pathlib.Path(sys.argv[1])
problems = []


def need(condition, text):
    if not condition:
        problems.append(text)


for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "THIRD_PARTY.md", "LICENSE", "docs/settings.md"):
    need((root / name).is_file(), f"{name} is missing")

# Every library folder explains itself.
floors = [l.strip() for l in (root / "tools/floors.txt").read_text().splitlines() if l.strip() and not l.startswith("#")]
for folder in floors:
    need((root / "src" / folder / "README.md").is_file(), f"src/{folder}/README.md is missing")
    need((root / "src" / folder / "CMakeLists.txt").is_file(), f"src/{folder}/CMakeLists.txt is missing")

# Links and paths in the documents exist.
for document in list(root.glob("*.md")) + list((root / "docs").glob("*.md")) + list((root / "src").rglob("README.md")):
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
        if not re.match(r"[a-z]+:", target):
            need((document.parent / target).exists(), f"{document.relative_to(root)} links to {target}, which is not there")

# Every Debian package that the set-up script installs for building has its licence and reason.
setup = (root / "scripts/setup").read_text()
third_party = (root / "THIRD_PARTY.md").read_text()
for block in re.findall(r"(?:build|test|develop)_packages=\((.*?)\)", setup, re.S):
    for package in block.split():
        need(f"`{package}`" in third_party, f"THIRD_PARTY.md does not mention `{package}`")
for line in (root / "tests/requirements.txt").read_text().splitlines():
    if line and not line.startswith("#"):
        name = re.split(r"[=<>]", line)[0].lower()
        need(f"`{name}`" in third_party.lower(), f"THIRD_PARTY.md does not mention `{name}` (PyPI)")

# The tree stands alone.
files = subprocess.run(["git", "-C", str(root), "ls-files"], capture_output=True, text=True).stdout.split()
for name in files:
    path = root / name
    if path.suffix in (".md", ".cc", ".h", ".py", ".txt", ".json", ".cmake", ".ts", ".js", "") and path.is_file() and path.stat().st_size < 2_000_000:
        text = path.read_text(errors="replace")
        if name != "tests/documents_test.py":
            need("../shared" not in text, f"{name} refers to a folder outside the tree")

for problem in problems:
    print(problem)
print(f"{len(problems)} problems")
sys.exit(1 if problems else 0)
