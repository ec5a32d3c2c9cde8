"""What a browser makes of a page."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any


def measured_in_a_browser(page: str, also: str, folder: Path) -> tuple[list[Any], str]:
    """Open a page at the width of a phone.

    Args:
        page: HTML.
        also: JavaScript expression to measure besides; `d` is the document.
        folder: For what the browser writes.

    Returns:
        Pixels by which it is too wide, whether all pictures are there, requests that it made, what was measured
        besides; and what the browser said.
    """
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert browser, "this test needs chromium on PATH"
    measure = (
        "const w = f.contentWindow, d = w.document, e = d.documentElement, out = [e.scrollWidth - e.clientWidth];"
        "out.push([...d.images].every(i => i.complete && i.naturalWidth > 0));"
        "out.push(w.performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:')).length);"
        f"out.push({also});"
        "document.title = 'measured ' + JSON.stringify(out);"
    )
    wrapper = folder / "phone.html"
    wrapper.write_text(
        f'<!doctype html><meta charset="utf-8"><title>waiting</title><iframe id="f" width="360" height="800" '
        f'style="border:0" srcdoc="{html.escape(page)}" onload="{measure}"></iframe>',
        encoding="utf-8",
    )
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command += ["--disable-dev-shm-usage", "--enable-logging=stderr", f"--user-data-dir={folder / 'profile'}"]
    done = subprocess.run(
        [*command, "--dump-dom", wrapper.as_uri()], capture_output=True, text=True, timeout=60, check=True
    )
    found = re.search(r"<title>measured (.*?)</title>", done.stdout)
    assert found, done.stderr[-2000:]
    return json.loads(html.unescape(found[1])), done.stderr
