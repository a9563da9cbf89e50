"""Opens a report.html from disk in a headless Chromium and uses it: all sections are there, a click sorts, a layer unfolds, nothing
is asked of a network, and the console stays empty. Writes screenshots.

    python browser_check.py FOLDER_OF_THE_REPORT [--shots FOLDER] [--chromium /usr/bin/chromium]
"""

import argparse
import json
import pathlib

from playwright.sync_api import sync_playwright

QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
SECTIONS = ["roofline", "operations", "why", "what-if", "roadmap", "timeline", "latency", "arena"]


def check(condition, what):
    if not condition:
        raise SystemExit(f"not as it should be: {what}")


def column(table, number):
    """The values that a column is sorted by, from top to bottom."""
    return table.evaluate("(t, n) => [...t.tBodies].map(b => b.rows[0].cells[n]).map(c => Number(c.dataset.v))", number)


def sorts(page, table):
    heads = table.locator("thead th")
    names = [name.strip() for name in heads.all_inner_texts()]
    number = names.index("µs")
    button = heads.nth(number).locator("button")
    button.click()
    values = column(table, number)
    check(values == sorted(values, reverse=True) and len(set(values)) > 1, "one click sorts downwards")
    check(heads.nth(number).get_attribute("aria-sort") == "descending", "the heading says so")
    button.focus()
    page.keyboard.press("Enter")
    check(column(table, number) == sorted(values), "Enter turns the order")
    words = names.index("operation")
    heads.nth(words).locator("button").click()
    texts = table.evaluate("(t, n) => [...t.tBodies].map(b => b.rows[0].cells[n].textContent)", words)
    check(texts == table.evaluate("(t, v) => v.sort((a, b) => a.localeCompare(b))", texts), "words sort as words")
    heads.nth(0).locator("button").click()
    check(column(table, 0) == list(range(1, len(values) + 1)), "the ranks are back")


def unfolds(page, table, operations):
    """One operation's layers by mouse, then all by the button."""
    layered = [o for o in operations if len(o["members"]) > 1]
    check(layered, "something has layers")
    fold = table.locator("button.fold").first
    fold.click()
    body = fold.locator("xpath=ancestor::tbody")
    shown = [text for text in body.locator("tr.member td.name").all_inner_texts()]
    paths = [member[0] for member in layered[0]["members"]]
    check(shown == paths and body.locator("tr.member").first.is_visible(), f"{paths[:2]} … are unfolded")
    check(any("blocks.0" in path for path in shown), "a layer has its number")
    fold.focus()
    page.keyboard.press("Space")
    check(not body.locator("tr.member").first.is_visible(), "Space folds again")
    unfold = table.locator("xpath=ancestor::section").locator("button.unfold")
    unfold.click()
    rows = table.locator("tr.member:visible").count()
    check(rows == sum(len(o["members"]) for o in layered), f"{rows} layers are shown")
    unfold.click()
    check(table.locator("tr.member:visible").count() == 0, "all are folded")


def use(page, report):
    for phase in report["phases"]:
        name = phase["name"]
        for section in SECTIONS:
            check(page.locator(f"#{name}-{section}").is_visible(), f"{name}-{section} is shown")
        section = page.locator(f"section#{name}")
        table = section.locator("table.operations")
        check(table.locator("tr.row").count() == len(phase["operations"]), "a row an operation")
        sorts(page, table)
        unfolds(page, table, phase["operations"])
        dots = section.locator("svg.roofline circle").count()
        check(dots == sum(o["traffic"]["flops"] > 0 and o["seconds"] > 0 for o in phase["operations"]), "a dot an operation")
        check(section.locator("svg.arena rect.value").count() > 0, "values in the arena")
        check(section.locator("svg.latency rect.bar").count() > 0, "bars of latency")
        lanes = {slice["worker"] for slice in phase["timeline"]}
        check(section.locator(".lanes div").count() == len(lanes), "a lane a worker")
        zoom = section.locator("input.zoom")
        before = section.locator(".wide").bounding_box()["width"]
        zoom.fill("4")
        check(section.locator(".wide").bounding_box()["width"] > 3.9 * before, "the timeline can be zoomed")
        zoom.fill("1")
        outside = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        check(outside <= 0, f"the page is {outside} pixels too wide")
        bad = page.evaluate("document.body.innerText.match(/NaN|Infinity|undefined/g)")
        check(not bad, f"{bad} in the text")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--shots", type=pathlib.Path)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    options = parser.parse_args()
    report = json.loads((options.folder / "report.json").read_text())
    address = (options.folder / "report.html").resolve().as_uri()
    said, asked = [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=options.chromium, args=QUIET)
        for scheme in ["light", "dark"]:
            page = browser.new_page(color_scheme=scheme, viewport={"width": 1360, "height": 900})
            page.on("console", lambda message: said.append(message.text))
            page.on("pageerror", lambda error: said.append(str(error)))
            page.on("request", lambda request: asked.append(request.url))
            page.goto(address)
            use(page, report)
            if options.shots:
                options.shots.mkdir(parents=True, exist_ok=True)
                shots(page, report, options.shots, scheme)
        browser.close()
    check(not said, f"the console says {said}")
    other = {url for url in asked if url != address and not url.startswith("data:")}
    check(not other, f"the page asks for {other}")
    print(f"{options.folder}: sorted, unfolded, zoomed in light and dark; no request but the file, nothing on the console")


def shots(page, report, folder, scheme):
    """The whole page, and each part of each phase as one sees it, with an operation unfolded."""
    for phase in report["phases"]:
        page.locator(f"section#{phase['name']} button.fold").first.click()
    page.screenshot(path=folder / f"{scheme}.png", full_page=True)
    if scheme == "light":
        for phase in report["phases"]:
            for section in SECTIONS:
                page.locator(f"#{phase['name']}-{section}").evaluate("e => e.scrollIntoView()")
                page.screenshot(path=folder / f"{phase['name']}-{section}.png")


if __name__ == "__main__":
    main()
