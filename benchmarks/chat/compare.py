"""Renders twenty conversations by the chat templates of published models, here and by transformers.

    pip install transformers jinja2
    python benchmarks/chat/compare.py [FOLDER …]

Templates (`*.jinja`) come from the folders that are named, or else from a package that is downloaded by name and
unpacked into a temporary folder; none is kept. Prints a line for each difference and a summary; exit code 1 if there
is a difference.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import zipfile

from conversations import IMAGE, conversations
from reference import NOW, render

# A package that holds templates of published models as files.
PACKAGE = "trl"
TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
ROOT = pathlib.Path(__file__).parents[2]


def download(folder):
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), PACKAGE]
    subprocess.run(command, check=True)
    for archive in list(folder.glob("*.whl")):
        unpack(archive, folder)


def unpack(archive, folder):
    """Writes the templates of an archive, under names without folders."""
    with zipfile.ZipFile(archive) as files:
        for name in files.namelist():
            if name.endswith(".jinja"):
                (folder / pathlib.Path(name).name).write_bytes(files.read(name))


def ours(requests):
    """Renders all requests in one process."""
    # With the workspace's features and profile, of which the tests have a build.
    build = ["cargo", "build", "--quiet", "--workspace", "--profile", "test", "--example", "render_chat"]
    subprocess.run(build, cwd=ROOT, check=True)
    program = ROOT / "target" / "debug" / "examples" / "render_chat"
    lines = "".join(json.dumps(request, ensure_ascii=False) + "\n" for request in requests)
    process = subprocess.run([program], input=lines.encode(), stdout=subprocess.PIPE, check=True)
    return [json.loads(line) for line in process.stdout.decode().splitlines()]


def main():
    with tempfile.TemporaryDirectory() as temporary:
        folders = [pathlib.Path(folder) for folder in sys.argv[1:]]
        if not folders:
            folders = [pathlib.Path(temporary)]
            download(folders[0])
        # A template file ends with a line feed that the model's own configuration may lack; Jinja drops one.
        paths = sorted(path for folder in folders for path in folder.rglob("*.jinja"))
        templates = {path.stem: path.read_text(encoding="utf-8") for path in paths}
    cases = conversations()
    requests, expected = [], []
    for name, template in templates.items():
        for case_name, case in cases:
            requests.append({"template": template, "tokens": TOKENS, "now": NOW, **case})
            expected.append((name, case_name, render(template, TOKENS, case)))
        requests.append({"template": template, "tokens": TOKENS, "now": NOW, **IMAGE})
        expected.append((name, "an image", None))
    equal, refused, different = {}, {}, []
    for (name, case, reference), got in zip(expected, ours(requests), strict=True):
        same = "text only" in got.get("error", "") if reference is None else agree(reference, got)
        if not same:
            different.append((name, case, reference, got))
            continue
        counts = refused if reference is None or "error" in reference else equal
        counts[name] = counts.get(name, 0) + 1
    for name, case, reference, got in different:
        print(f"{name}, {case}:\n  transformers {str(reference)[:1500]}\n  here         {str(got)[:1500]}")
    print(f"{len(templates)} templates, {len(requests)} conversations: {sum(equal.values())} equal texts, "
          f"{sum(refused.values())} refused by both or for an image, {len(different)} different")
    return 1 if different or not templates else 0


def agree(reference, got):
    """Whether both gave the same text, or both failed; a template's own words must be the same."""
    if "text" in reference or "text" in got:
        return reference.get("text") == got.get("text")
    name, _, words = reference["error"].partition(": ")
    return name != "TemplateError" or words in got["error"]


sys.exit(main())
