"""Labels fed back, the card, the push to a stand-in of the Hub, and the export to ONNX."""

from __future__ import annotations

import base64
import csv
import json
import re
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from commands import invoke, works
from conftest import write_jsonl
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from test_report import Page, make_run
from tiny import save_teacher

from muki.errors import TextsError
from muki.evaluation.labelled import _by_text
from muki.evaluation.metrics import macro_f1_interval
from muki.publishing import onnx
from muki.run_folder import RunFolder
from muki.teachers.provenance import provenance
from muki.texts import Text


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, encoder: Path, pool_texts: list[str]) -> Path:
    """A run with a test file; its teachers have cards with licences."""
    folder = tmp_path_factory.mktemp("published")
    teachers = [
        save_teacher(folder / "news", "bert", ["sports", "politics", "business"], seed=1),
        save_teacher(folder / "culture", "roberta", ["technology", "health", "film"], seed=2),
    ]
    for path, licence in zip(teachers, ("gpl-3.0", "cc-by-sa-4.0"), strict=True):
        (path / "README.md").write_text(f"---\nlicense: {licence}\nbase_model: some/base\n---\n", encoding="utf-8")
    labels = ["sports", "politics", "business", "technology", "health", "film"]
    texts = ["=1+1 the match", *pool_texts[1:]]
    return make_run(
        folder, teachers, encoder, texts, [{"text": t, "label": labels[i % 6]} for i, t in enumerate(pool_texts)]
    )


# --- labels fed back -------------------------------------------------------------------------------------------------


def fill(run: Path, path: Path, label: Any) -> list[dict[str, str]]:
    """Fill in the report's CSV, as a spreadsheet would write it."""
    with (run / "report" / "to-label.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    for number, row in enumerate(rows):
        row["label"] = label(number, row)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return rows


def test_filled_in_labels_are_fed_back(run: Path, tmp_path: Path):
    file = tmp_path / "labelled.csv"
    rows = fill(run, file, lambda number, row: row["student"] if number % 2 else "")
    said = works("evaluate", run, "--labels", file).stdout
    metrics = json.loads((run / "report" / "labelled.json").read_text(encoding="utf-8"))
    given = {int(row["row"]): row["label"] for row in rows if row["label"]}
    assert metrics["texts"] == len(given)
    assert metrics["student"]["accuracy"] == 1.0
    stored = {one["row"]: one for one in pq.read_table(run / "supervision" / "shard-00000.parquet").to_pylist()}
    labels = json.loads((run / "labels.json").read_text(encoding="utf-8"))["labels"]
    right = [labels[int(np.argmax(stored[row]["target"]))] == label for row, label in given.items()]
    assert metrics["target"]["accuracy"] == pytest.approx(np.mean(right))
    assert re.search(rf"^student +1\.000 +{len(given)}$", said, re.MULTILINE)
    page = Page((run / "report" / "report.html").read_text(encoding="utf-8"))
    assert (
        f"Of {len(given)} texts labelled by hand the student gets {len(given)} right, its training targets "
        f"{sum(right)}. Where they are the listed texts, they are hard on purpose and no fair sample." in page.words
    )


def test_labels_filled_in_where_the_report_put_them_stay(run: Path, tmp_path: Path):
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    file = copy / "report" / "to-label.csv"
    works("report", copy)
    before = file.read_bytes()
    fill(copy, file, lambda number, row: "film" if number == 3 else "")
    filled = file.read_bytes()
    assert "to-label.csv: has labels that were filled in, and stays as it is" in works("report", copy).stderr
    works("evaluate", copy, "--labels", file)
    works("evaluate", copy)
    assert file.read_bytes() == filled
    file.write_bytes(filled.decode("utf-8").encode("utf-16"))  # as a spreadsheet may save it
    works("report", copy)
    assert file.read_bytes() == filled.decode("utf-8").encode("utf-16")
    file.unlink()
    works("report", copy)
    assert file.read_bytes() == before


def test_pairs_that_begin_alike_need_their_row(tmp_path: Path):
    pool = [Text(0, "a man sleeps", "a person rests"), Text(1, "a man sleeps", "a dog runs"), Text(2, "rain", "x")]
    shards: Any = pool
    with pytest.raises(TextsError, match="several pairs that begin with 'a man sleeps'; keep the column 'row'"):
        _by_text("l.csv", shards)
    assert _by_text("l.csv", shards[1:] + pool[1:]) == {"a man sleeps": 1, "rain": 2}


def test_labelled_texts_without_row_numbers_are_found_by_their_text(run: Path, tmp_path: Path, pool_texts: list[str]):
    file = write_jsonl(tmp_path / "l.jsonl", [{"text": "'=1+1  the match", "label": "film"},
                                              {"text": pool_texts[4], "label": "weather"}])  # fmt: skip
    works("evaluate", run, "--labels", file)
    metrics = json.loads((run / "report" / "labelled.json").read_text(encoding="utf-8"))
    assert (metrics["texts"], metrics["left_out"]) == (1, {"weather": 1})


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"row": 0, "text": "=1+1 the match", "label": ""}],
         "no label is filled in (1 lines); write one in the column 'label'"),
        ([{"row": 0, "text": "=1+1 the match", "label": "sprots"}],
         "none is a label of the run; found 'sprots'; did you mean 'sports'?; known are sports, politics, business, "
         "technology, health, film"),
    ],
)  # fmt: skip
def test_labels_that_say_nothing(run: Path, tmp_path: Path, rows: list[dict[str, object]], message: str):
    file = write_jsonl(tmp_path / "l.jsonl", rows)
    result = invoke("evaluate", run, "--labels", file)
    assert result.exit_code == 2
    assert f"muki: labels '{file}': {message}\n" in result.stderr


@pytest.mark.parametrize("row", [3, 999, "x"])
def test_labels_of_another_run_are_refused(run: Path, tmp_path: Path, row: object):
    file = write_jsonl(tmp_path / "l.jsonl", [{"row": row, "text": "of another run", "label": "film"}])
    result = invoke("evaluate", run, "--labels", file)
    assert result.exit_code == 2
    assert (
        f"muki: labels '{file}', row {row}: 'of another run' is no such text of this run's pool; give a file made from "
        "this run's report, or texts of its pool\n" in result.stderr
    )


# --- the card --------------------------------------------------------------------------------------------------------


def test_the_card_has_intervals_licences_and_how_to_repeat(run: Path):
    metrics = json.loads((run / "report" / "metrics.json").read_text(encoding="utf-8"))
    content = (run / "student" / "README.md").read_text(encoding="utf-8")
    card = ModelCard.load(run / "student" / "README.md")
    accuracy, f1 = card.data.eval_results
    assert accuracy.metric_args == {"interval_95": [round(x, 4) for x in metrics["student"]["accuracy_interval"]]}
    assert f1.metric_args == {"interval_95": [round(x, 4) for x in metrics["student"]["macro_f1_interval"]]}
    assert card.data.license is None
    assert "| 3 | gpl-3.0 |" in content
    assert (
        "> **Licences:** they do not fit together: news (gpl-3.0), culture (cc-by-sa-4.0) each want what is made from "
        "them under their own terms. Read them before you use this model or pass it on." in content
    )
    settings = yaml.safe_load(content.split("```yaml\n")[1].split("```")[0])
    assert [one["model"] for one in settings["teachers"]] == ["news", "culture"]
    assert settings["method"]["passes"] == 2
    assert str(run.parent) not in content


def test_a_card_that_says_nothing_is_no_error(tmp_path: Path):
    assert provenance(str(tmp_path)).licence is None
    (tmp_path / "README.md").write_text("---\n: [broken\n---\n", encoding="utf-8")
    assert provenance(str(tmp_path)).base_models == ()
    assert provenance("/no/such/folder").licence is None


def test_the_interval_of_macro_f1_holds_the_estimate():
    assert macro_f1_interval(np.array([[50, 0], [0, 50]])) == (1.0, 1.0)
    low, high = macro_f1_interval(np.array([[40, 10], [20, 30]]))
    f1 = (2 * 40 / 110 + 2 * 30 / 90) / 2
    assert low < f1 < high
    assert 0.1 < high - low < 0.25


# --- the Hub ---------------------------------------------------------------------------------------------------------


class Hub(ThreadingHTTPServer):
    """A stand-in of the Hub's HTTP interface: makes repositories and takes commits."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.asked: list[tuple[str, str, str | None]] = []
        self.commits: list[dict[str, bytes]] = []
        self.created: list[dict[str, Any]] = []
        self.refuse: int | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answer(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def reply(self, content: object, status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append(("POST", self.path, self.headers.get("Authorization")))
        if self.server.refuse:
            return self.reply({"error": "not allowed"}, self.server.refuse)
        if self.path == "/api/repos/create":
            self.server.created.append(json.loads(body))
            return self.reply({"url": f"{self.server.url}/team/help-desk", "name": "team/help-desk", "id": "1"})
        if "/preupload/" in self.path:
            files = [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                     for one in json.loads(body)["files"]]  # fmt: skip
            return self.reply({"files": files})
        if "/commit/" in self.path:
            lines = [json.loads(line) for line in body.splitlines()]
            files = {one["value"]["path"]: base64.b64decode(one["value"]["content"])
                     for one in lines if one["key"] == "file"}  # fmt: skip
            self.server.commits.append(files)
            url = f"{self.server.url}/team/help-desk/commit/abc"
            answer = {"success": True, "commitOid": "abc", "commitUrl": url, "hookOutput": "", "pullRequestUrl": None}
            return self.reply(answer)
        return self.reply({})

    def do_GET(self) -> None:
        self.server.asked.append(("GET", self.path, self.headers.get("Authorization")))
        if self.server.refuse:
            return self.reply({"error": "not allowed"}, self.server.refuse)
        return self.reply({"name": "team", "type": "user", "orgs": [], "id": "1"})


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", "hf_of_this_test")
    yield server
    server.shutdown()


def test_a_push_uploads_student_card_and_report_in_one_commit(run: Path, hub: Hub):
    said = works("push", run, "--repo", "team/help-desk").stdout
    (files,) = hub.commits
    assert set(files) == {
        "README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
        "report/report.html", "report/metrics.json",
    }  # fmt: skip
    folder = RunFolder(run)
    assert files["model.safetensors"] == (folder.student / "model.safetensors").read_bytes()
    assert files["report/report.html"] == folder.report.read_bytes()
    assert {token for _, _, token in hub.asked} == {"Bearer hf_of_this_test"}
    assert hub.created[0].get("private", hub.created[0].get("visibility")) in (True, "private")
    assert said == (
        f"{hub.url}/team/help-desk: 7 files\n"
        "the report quotes texts of the pool; leave it out with --no-report\n"
    )  # fmt: skip


def test_a_push_without_the_report(run: Path, hub: Hub):
    assert "quotes texts" not in works("push", run, "--repo", "team/help-desk", "--no-report", "--public").stdout
    assert not [name for name in hub.commits[0] if name.startswith("report/")]
    assert hub.created[0].get("private", hub.created[0].get("visibility")) in (False, None, "public")


@pytest.mark.parametrize(
    ("status", "remedy"),
    [
        (401, "run `hf auth login` with a token that may write"),
        (403, "the token must be allowed to write there; check it, and the repository's owner"),
    ],
)
def test_a_push_that_is_refused_says_what_to_do(run: Path, hub: Hub, status: int, remedy: str):
    hub.refuse = status
    result = invoke("push", run, "--repo", "team/help-desk")
    assert result.exit_code == 2
    assert f"muki: push to 'team/help-desk': the Hub refused ({status}: " in result.stderr
    assert f"); {remedy}\n" in result.stderr
    assert hub.commits == []


def test_without_a_token_the_hub_is_not_asked(run: Path, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    result = invoke("push", run, "--repo", "team/help-desk")
    assert result.exit_code == 2
    said = "muki: push to 'team/help-desk': no token of the Hub on this machine; run `hf auth login` first\n"
    assert result.stderr.startswith(said)
    assert hub.asked == []


def test_a_run_without_a_card_is_not_pushed(run: Path, hub: Hub, tmp_path: Path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / "student" / "README.md").unlink()
    result = invoke("push", copy, "--repo", "team/help-desk")
    assert result.exit_code == 2
    assert f"muki: {copy / 'student'}: no student with a card yet; run `muki run {copy}` first\n" in result.stderr
    assert hub.asked == []


# --- ONNX ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The student as an ONNX file, and what was said."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    folder = tmp_path_factory.mktemp("exported") / "onnx"
    return folder, works("export", run, "--format", "onnx", "-o", folder).stdout


def test_the_onnx_file_gives_the_students_answers(run: Path, exported: tuple[Path, str], pool_texts: list[str]):
    import onnxruntime
    from transformers import AutoTokenizer

    from muki.predict import Classifier

    folder, said = exported
    assert re.fullmatch(rf"{folder}/model.onnx: logits within \d\.\de-\d\d of the student's on 16 texts\n", said)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = pool_texts[:7]
    batch = tokenizer(texts, padding=True, truncation=True, max_length=32, return_tensors="np")
    (logits,) = onnxruntime.InferenceSession(folder / "model.onnx").run(["logits"], dict(batch))
    expected = Classifier.load(run / "student").probabilities([Text(i, text) for i, text in enumerate(texts)])
    found = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(found / found.sum(axis=1, keepdims=True), expected, atol=1e-3)


@pytest.mark.parametrize(("tolerance", "difference"), [(-1.0, r"\d\.?\d?e-\d\d"), (1e-3, "1")])
def test_an_onnx_file_that_answers_differently_is_not_kept(
    run: Path, exported: tuple[Path, str], tmp_path: Path, pool_texts: list[str], monkeypatch: pytest.MonkeyPatch,
    tolerance: float, difference: str,
):  # fmt: skip
    """Nothing is near enough to be less than 0 away; and another student's file is not near enough."""
    student = tmp_path / "student"
    shutil.copytree(run / "student", student)
    if tolerance > 0:
        weights = load_file(student / "model.safetensors")
        weights["classifier.bias"][2] += 1.0
        save_file(weights, student / "model.safetensors", metadata={"format": "pt"})
    monkeypatch.setattr(onnx, "TOLERANCE", tolerance)
    monkeypatch.setattr(onnx, "_write", lambda *args: shutil.copy(exported[0] / "model.onnx", args[-1]))
    with pytest.raises(onnx.ExportError) as error:
        onnx.export_onnx(student, tmp_path / "onnx", pool_texts[:3])
    assert re.fullmatch(
        f"export to ONNX: the file's logits differ from the student's by {difference}, more than {tolerance:g}; "
        "it was not kept: use the student as it is",
        str(error.value),
    )
    assert list(tmp_path.iterdir()) == [student]


def test_an_unknown_format_is_refused(run: Path):
    result = invoke("export", run, "--format", "tflite", "-o", "x")
    assert result.exit_code == 2
    assert "muki: --format tflite: unknown; known: onnx\n" in result.stderr
