"""Pages in a real browser: opened from the disk, driven by a script, and read back."""

import html
import json
import re
import shutil
import subprocess

import pytest

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
COMMAND = next((path for name in PROGRAMS if (path := shutil.which(name))), None)

WATCH = """<script>
  window.faults = [];
  addEventListener("error", (event) => faults.push(event.message));
  addEventListener("unhandledrejection", (event) => faults.push(String(event.reason)));
  addEventListener("securitypolicyviolation", (event) => faults.push(event.blockedURI));
</script>"""


def run_in_page(page, script, folder):
    """Returns what a script, the body of an async function, returns when run in a page.

    Whatever goes wrong in the page is a fault. Skips the test where there is no Chromium.
    """
    if COMMAND is None:
        pytest.skip("no Chromium here")
    text = page.read_text(encoding="utf-8")
    head, mark, rest = text.partition("<body>")
    assert mark
    body, mark, tail = rest.rpartition("</body>")
    assert mark
    driver = f"""<script>
      (async () => {{
        const run = async () => {{ {script} }};
        const told = await run().catch((error) => {{ faults.push(String(error.stack)); }});
        document.documentElement.dataset.told = JSON.stringify({{ told: told ?? null, faults }});
      }})();
    </script>"""
    driven = folder / "driven.html"
    driven.write_text(f"{head}<body>{WATCH}{body}{driver}</body>{tail}", encoding="utf-8")
    done = subprocess.run(
        [
            COMMAND,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={folder / 'profile'}",
            "--virtual-time-budget=20000",
            "--dump-dom",
            driven.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    found = re.search(r'data-told="([^"]*)"', done.stdout)
    assert found, f"the script did not end; {done.stdout[-500:]}"
    answer = json.loads(html.unescape(found[1]))
    assert answer["faults"] == []
    return answer["told"]
