"""A browser without a screen, for tests of what a reader of a page meets."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import unquote, urlsplit

import pytest

# Nothing is asked of the network, so that a page shows what it brings itself.
OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND")

UNCAUGHT = re.compile(r"CONSOLE.*(Uncaught.*)")

# Holds each page in a frame. Its own load event, for which the browser waits, comes after those of
# the frames, so after every picture has loaded or failed; one that failed has no width.
VISIT = """<!doctype html>
<meta charset="utf-8">
<body>
<script>
function look(frame) {
  const page = frame.contentDocument;
  const pictures = [...page.images];
  const needs = page.querySelectorAll("script[src], link[rel=stylesheet]");
  return {
    pictures: pictures.length,
    broken: pictures.filter(picture => !picture.naturalWidth).map(picture => picture.src),
    files: [...needs].map(element => element.src || element.href),
  };
}
const frames = PAGES.map(page => {
  const frame = document.createElement("iframe");
  frame.src = page;
  return document.body.appendChild(frame);
});
onload = () => { document.title = encodeURIComponent(JSON.stringify(frames.map(look))); };
</script>
"""


def chromium():
    """Path of a browser; the test is skipped where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome", "chrome-headless-shell")
    found = next(filter(None, map(shutil.which, names)), None) or _chromium_of_playwright()
    if found is None or not Path(found).exists():
        pytest.skip("no Chromium is installed")
    return found


def _chromium_of_playwright():
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return None
    with sync_playwright() as playwright:
        return playwright.chromium.executable_path


def opened(page, *options):
    """The process that opened a page and closed it: its output is the page after its scripts."""
    command = [chromium(), *OPTIONS, *options]
    with TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        run = subprocess.run(
            [*command, f"--user-data-dir={profile}", "--dump-dom", page.as_uri()],
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert run.returncode == 0, run.stderr
    return run


def seen_on(pages, folder):
    """What a browser meets on pages of a site, opened together by a page written into ``folder``.

    Returns
    -------
    pictures : list of int
        How many pictures each page has.
    faults : list of str
        Pictures that show nothing, scripts and styles that are missing, errors of scripts.
    """
    start = folder / "visit.html"
    addresses = json.dumps([page.as_uri() for page in pages])
    start.write_text(VISIT.replace("PAGES", addresses), encoding="utf-8")
    # A page on disk may look into another one only where the browser is told so.
    run = opened(start, "--allow-file-access-from-files", "--enable-logging=stderr")
    title = re.search("<title>(.*?)</title>", run.stdout)
    assert title, f"the browser did not look at the pages:\n{run.stderr}"
    seen = json.loads(unquote(title[1]))
    faults = UNCAUGHT.findall(run.stderr)
    for page, found in zip(pages, seen, strict=True):
        missing = [file for file in found["files"] if is_missing(file)]
        faults += [f"{page.name}: {what}" for what in found["broken"] + missing]
    return [found["pictures"] for found in seen], faults


def is_missing(address):
    """Whether an address names a file that does not exist."""
    parts = urlsplit(address)
    return parts.scheme == "file" and not Path(unquote(parts.path)).exists()
