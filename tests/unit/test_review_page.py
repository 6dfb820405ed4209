"""The page on which pairs are judged: what a person does in it comes back through ``read_verdicts``."""

from __future__ import annotations

import csv
import html
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import draw, write_rows
from PIL import Image

from siamdedup.catalog.table import read_catalog
from siamdedup.catalog.verdicts import COLUMNS, read_verdicts
from siamdedup.report.review_page import write_review_page
from siamdedup.types import VERDICTS, Catalog, ReviewList

HOSTILE = [
    "</script><script>document.title='owned'</script>",
    "\"quoted\" & 'single' <b>bold</b>",
    "<!--<script>",
    "line\u2028separator, größe; 漢字",
    "{{ 7*7 }} \\u003c ${x}",
    "=1+1",
]
BLOCKED = "Object.defineProperty(window, 'localStorage', { get() { throw new Error('blocked') } });"
# What a person does, by mouse and keyboard only; downloads are caught where the page makes them.
HANDS = """
const files = [];
URL.createObjectURL = (blob) => { files.push(blob); return "blob:none"; };
HTMLAnchorElement.prototype.click = function () { names.push(this.download); };
const names = [], log = {}, $ = (id) => document.getElementById(id);
const event = (key, more) => new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true, ...more });
const press = (key, more) => document.activeElement.dispatchEvent(event(key, more));
const click = (word) => document.querySelector(`[data-word=${word}]`).click();
const shown = () => Number($("facts").textContent.match(/pair (\\d+)/)[1]);
const pressed = () => [...document.querySelectorAll("[data-word][aria-pressed=true]")].map((b) => b.dataset.word).join();
async function finish() {
  $("json").click(); $("csv").click();
  log.names = names;
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  log.files = await Promise.all(files.map((file) => file.arrayBuffer().then((bytes) => decoder.decode(bytes))));
  log.judged = $("judged").textContent; log.state = $("state").textContent; log.title = document.title;
  const out = document.createElement("pre");
  out.id = "result"; out.textContent = JSON.stringify(log); document.body.append(out);
}
"""


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.started: list[tuple[str, dict[str, str | None]]] = []
        self.inside, self.data, self.text = "", "", ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside = "data" if dict(attrs).get("id") == "data" else tag
        self.started.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "data":
            self.data += data
        elif self.inside not in ("style", "script"):
            self.text += data


def example(folder: Path) -> tuple[Catalog, ReviewList]:
    """Six pairs of seven pictures with hostile names; the last picture is missing, the third pair judged."""
    names = [f'größe, "{k}" \'<i>.png' for k in range(7)]
    for k in range(6):
        Image.fromarray(draw(k, 0)).save(folder / names[k])
    ids = [*HOSTILE, "plain"]
    rows = [(i, n, f"F {i}") for i, n in zip(ids, names, strict=True)]
    catalog = read_catalog(write_rows(folder / "c.csv", rows))
    assert catalog.product_ids.to_pylist() == ids
    left, right = np.array([0, 1, 2, 3, 4, 0]), np.array([1, 2, 3, 4, 5, 6])
    distance = np.linspace(0.01, 0.3, 6).astype(np.float32)
    verdict = np.array(["", "", "variant", "", "", ""], "<U9")
    return catalog, ReviewList(left, right, left, right, distance, np.array([1, 2, 0, 1, 1, 1234]), verdict)


def page_of(folder: Path, catalog: Catalog, review: ReviewList, **options: Any) -> Path:
    options |= {"title": "T <1>", "intro": "I & <i>", "goal_lines": {"precision <b>": ">= 0.98 & more"}}
    return write_review_page(folder / "review.html", catalog, review, **options)


def parsed(path: Path) -> Tags:
    tags = Tags()
    tags.feed(path.read_text(encoding="utf-8"))
    return tags


def test_whatever_the_catalogue_holds_stays_text(tmp_path: Path) -> None:
    catalog, review = example(tmp_path)
    path = page_of(tmp_path, catalog, review)
    source, tags = path.read_text(encoding="utf-8"), parsed(path)
    assert [tag for tag, _ in tags.started].count("script") == 2, "the data and the page's own"
    assert source.count("</script") == 2
    assert "i" not in {tag for tag, _ in tags.started}, "the catalogue's and the caller's markup is text"
    assert {"\u2028", "\u2029"}.isdisjoint(source)
    assert not re.search("[<>&']", tags.data), "markup inside JSON is spelled in escapes"
    assert all(text in tags.text for text in ("T <1>", "I & <i>", "precision <b>", ">= 0.98 & more"))
    rows = json.loads(tags.data)["rows"]
    assert [row["left_id"] for row in rows] == [catalog.product_ids[int(k)].as_py() for k in review.left]
    assert [row["right_family"] for row in rows] == [catalog.families[int(k)].as_py() for k in review.right]
    assert not list(tmp_path.glob(".*")), "no temporary file is left"


def test_the_page_is_self_contained_and_each_picture_is_in_it_once(tmp_path: Path) -> None:
    catalog, review = example(tmp_path)
    path = page_of(tmp_path, catalog, review, side=64)
    tags = parsed(path)
    data = json.loads(tags.data)
    assert len(data["pictures"]) == 7
    assert [p.startswith("data:image/jpeg;base64,") for p in data["pictures"]] == [True] * 6 + [False]
    assert data["shows"] == np.stack([review.left_image, review.right_image], 1).tolist()
    assert not any("href" in attrs or "src" in attrs for _, attrs in tags.started)
    assert "http" not in re.sub(r"data:image[^\"]*", "", path.read_text()).replace("http-equiv", "")
    assert all(a.get("aria-label") for _, a in tags.started if a.get("class") == "picture")
    assert path.stat().st_size > page_of(tmp_path, catalog, review, side=64, quality=10).stat().st_size


def test_the_limit_holds_and_says_so(tmp_path: Path) -> None:
    catalog, review = example(tmp_path)
    tags = parsed(page_of(tmp_path, catalog, review, limit=2, side=32))
    data = json.loads(tags.data)
    assert (len(data["rows"]), len(data["pictures"])) == (2, 3)
    assert "the first 2 pairs; 4 more wait" in tags.text
    whole = parsed(page_of(tmp_path, catalog, review, side=32))
    assert "more wait" not in whole.text
    assert json.loads(whole.data)["key"] != data["key"], "another list does not inherit verdicts"
    moved = replace(review, distance=review.distance + 0.1, verdict=np.full(6, "", "<U9"))
    again = json.loads(parsed(page_of(tmp_path, catalog, moved, side=32)).data)
    assert again["key"] == json.loads(whole.data)["key"], "it is of the pairs, not of what is said of them"


def test_misuse_is_refused(tmp_path: Path) -> None:
    catalog, review = example(tmp_path)
    unmeasured = replace(review, distance=np.full(6, np.nan, np.float32))
    for list_, options in ((review, {"limit": 0}), (review, {"quality": 101}), (unmeasured, {})):
        with pytest.raises(ValueError, match="must be positive|finite"):
            page_of(tmp_path, catalog, list_, **options)
    assert not (tmp_path / "review.html").exists()


def drive(page: Path, script: str, *, head: str = "") -> dict[str, Any]:
    """Open a copy of the page with ``script`` after its own and return what the script logged."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("needs chromium on the PATH")
    text = page.read_text(encoding="utf-8").replace("<head>", f"<head><script>{head}</script>")
    copy = page.with_name(f"driven-{page.name}")
    copy.write_text(text.replace("</body>", f"<script>{HANDS}{script}</script></body>"), encoding="utf-8")
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    command += ["--no-first-run", "--disable-component-update", "--virtual-time-budget=4000"]
    command += [f"--user-data-dir={page.parent}/profile", "--dump-dom", copy.as_uri()]
    out = subprocess.run(command, check=True, capture_output=True, timeout=120).stdout.decode()
    found = re.search(r'<pre id="result">(.*?)</pre>', out, re.DOTALL)
    assert found, "the page's script did not run to its end"
    return dict(json.loads(html.unescape(found[1])))


def store(page: Path, value: str) -> str:
    return f"localStorage.setItem({json.loads(parsed(page).data)['key']!r}, {value!r});"


def back_through_the_files(
    folder: Path, log: dict[str, Any], catalog: Catalog, review: ReviewList
) -> list[str]:
    """Both downloads, as a person saves them, read back; they agree."""
    assert log["names"] == ["verdicts.json", "verdicts.csv"]
    assert log["files"][1].startswith("\ufeff")
    said = []
    for name, text in zip(log["names"], log["files"], strict=True):
        (folder / name).write_bytes(text.encode())
        verdicts = read_verdicts([folder / name])
        assert (verdicts.n_conflicts, verdicts.n_foreign(catalog)) == (0, 0)
        said.append(verdicts.of(catalog, review.left_image, review.right_image).tolist())
    assert said[0] == said[1]
    return said[0]


def test_judging_by_keyboard_and_mouse(tmp_path: Path) -> None:
    catalog, review = example(tmp_path)
    log = drive(
        page_of(tmp_path, catalog, review, side=64),
        """
        log.at = [shown()];                                   // the first pair that is not judged
        log.id = $("left-id").textContent;
        log.seen = $("left").naturalWidth;
        press("1"); log.at.push(shown());                     // same: pair 2
        press("D"); log.at.push(shown());                     // different: over pair 3, judged before, to 4
        press("ArrowLeft"); log.at.push(shown()); log.prefilled = pressed();
        press("Backspace"); log.at.push(shown());
        press("ArrowRight"); press("ArrowRight"); log.at.push(shown());
        press("s", { ctrlKey: true }); press("x"); press("Shift"); log.at.push(shown());
        click("unsure"); log.at.push(shown());
        click("same"); log.at.push(shown());
        log.missing = [$("right").hidden, $("right-missing").hidden, $("left").hidden];
        log.facts = $("facts").textContent;
        $("reviewer").value = "Mära"; $("reviewer").dispatchEvent(new Event("input", { bubbles: true }));
        $("reviewer").focus(); press("2"); log.typing = pressed(); $("reviewer").blur();
        $("left-zoom").click(); log.zoomed = $("zoom").open; press("3"); log.zoomedVerdict = pressed(); $("zoom").click();
        log.closed = !$("zoom").open;
        $("toggle").click();
        log.cells = [...document.querySelectorAll(".cell i")].map((i) => i.textContent);
        document.querySelectorAll(".cell")[3].click(); log.at.push(shown());
        press("v"); log.at.push(shown());                     // a second thought about pair 4
        log.counts = $("counts").textContent;
        document.querySelectorAll(".cell")[4].click(); $("clear").click(); log.cleared = shown();
        $("open").click(); log.next = shown();
        finish();
        """,
    )
    assert log["at"] == [1, 2, 4, 3, 2, 4, 4, 5, 6, 4, 6]
    assert log["id"] == HOSTILE[0]
    assert log["title"] == "T <1>"
    assert log["seen"] == 64
    assert log["prefilled"] == "variant"
    assert log["missing"] == [True, False, False]
    assert log["facts"] == "pair 6 of 6 · distance 0.3000 · settles 1,234 merges"
    assert (log["typing"], log["zoomed"], log["zoomedVerdict"], log["closed"]) == ("", True, "", True)
    assert log["cells"] == ["same", "different", "variant", "unsure", "same", ""]
    assert log["counts"] == "2 same · 2 variant · 1 different · 0 unsure · 1 not judged"
    assert (log["cleared"], log["next"]) == (5, 6)
    assert log["judged"] == "4 of 6 judged"
    words = back_through_the_files(tmp_path, log, catalog, review)
    assert words == ["same", "different", "variant", "variant", "", ""]
    rows = list(csv.DictReader(io.StringIO(log["files"][1].removeprefix("\ufeff"), newline="")))
    assert tuple(rows[0]) == COLUMNS
    assert [row["left_id"] for row in rows] == [catalog.product_ids[int(k)].as_py() for k in review.left]
    assert [row["reviewer"] for row in rows] == ["Mära", "Mära", "", "Mära", "", ""], (
        "not beside earlier verdicts"
    )
    assert [row["merges"] for row in rows] == [str(m) for m in review.n_merges]
    assert np.allclose([float(row["distance"]) for row in rows], review.distance, atol=1e-6)


def test_a_reload_loses_nothing_and_another_list_starts_afresh(tmp_path: Path) -> None:
    catalog, review = example(tmp_path)
    page = page_of(tmp_path, catalog, review, side=32)
    script = """
        if (!localStorage.getItem("reloaded")) {
          log.start = shown();
          press("1"); press("4"); $("reviewer").value = "Jon"; $("reviewer").dispatchEvent(new Event("input"));
          document.querySelector("#toggle").click(); document.querySelectorAll(".cell")[2].click(); $("clear").click();
          localStorage.setItem("reloaded", "yes");
          localStorage.setItem(JSON.parse($("data").textContent).key + "x", "another page's");
          location.reload();
        } else { log.at = shown(); log.reviewer = $("reviewer").value; finish(); }
        """
    log = drive(page, script)
    assert (log["at"], log["reviewer"], log["judged"]) == (3, "Jon", "2 of 6 judged")
    assert back_through_the_files(tmp_path, log, catalog, review) == ["same", "unsure", "", "", "", ""]


def test_what_was_stored_is_not_trusted(tmp_path: Path) -> None:
    catalog, review = example(tmp_path)
    page = page_of(tmp_path, catalog, review, side=32)
    stored = '{"verdicts": {"0": "yes", "1": "same", "2": "", "99": "same", "length": "same"}}'
    log = drive(page, "finish();", head=store(page, stored))
    assert log["judged"] == "1 of 6 judged"
    assert back_through_the_files(tmp_path, log, catalog, review) == ["", "same", "", "", "", ""]


def test_it_works_where_the_browser_keeps_nothing(tmp_path: Path) -> None:
    catalog, review = example(tmp_path)
    page = page_of(tmp_path, catalog, review, side=32)
    script = (
        'for (let k = 0; k < 5; k++) press("sdvu"[k % 4]); log.before = $("state").textContent; finish();'
    )
    log = drive(page, script, head=BLOCKED)
    assert log["judged"] == "6 of 6 judged"
    assert log["before"].startswith("All judged: now download the verdicts.")
    assert "does not keep verdicts" in log["before"]
    words = back_through_the_files(tmp_path, log, catalog, review)
    assert words == ["same", "different", "variant", "variant", "unsure", "same"]
    assert set(words) == set(VERDICTS)


def test_an_empty_list_and_a_spoilt_store(tmp_path: Path) -> None:
    catalog, review = example(tmp_path)
    none = ReviewList(*(getattr(review, name)[:0] for name in ReviewList.__dataclass_fields__))
    page = page_of(tmp_path, catalog, none)
    script = 'press("1"); log.hidden = [$("judge").hidden, $("nothing").hidden]; finish();'
    log = drive(page, script, head=store(page, "null"))
    assert (log["judged"], log["hidden"], log["state"]) == ("0 of 0 judged", [True, False], "All judged.")
    assert back_through_the_files(tmp_path, log, catalog, none) == []
