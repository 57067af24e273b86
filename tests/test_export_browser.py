"""The page about ONNX in a real browser: its module embeds as the model does.

It needs onnxruntime-web (``npm ci --prefix tests/browser``) and some Chromium; without one of them
the test is skipped and says so.
"""

from __future__ import annotations

import functools
import http.server
import json
import shutil
import subprocess
import threading
from typing import ClassVar

import numpy as np
import pytest
from safetensors.numpy import load_file

from contrastive import export
from contrastive.encoders import ResNet, TextTransformer
from contrastive.losses import InfoNCE
from contrastive.model.model import ContrastiveModel
from contrastive.spec import ModelSpec, Tower
from tests.pages import ROOT, blocks_of

ORT = ROOT / "tests" / "browser" / "node_modules" / "onnxruntime-web" / "dist"
FILES = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
PAGE = """<script type="module">
const tell = (found) => fetch("/told", { method: "POST", body: JSON.stringify(found) });
try {
  const { embedTexts, embedImage } = await import("./search.mjs");
  const { samples } = await (await fetch("exported/verify.json")).json();
  const text = (await embedTexts(samples.text)).map((row) => [...row]);
  const image = [];
  for (const name of samples.image) image.push([...(await embedImage(`exported/${name}`))]);
  await tell({ text, image });
} catch (error) {
  await tell({ error: String(error.stack || error) });
}
</script>"""


class Site(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, and keeps what the page tells."""

    extensions_map: ClassVar = {
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
        "": "text/html",
    }

    def __init__(self, *args, told, heard, **options):
        self.told, self.heard = told, heard
        super().__init__(*args, **options)

    def do_POST(self):
        self.told.update(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()
        self.heard.set()

    def log_message(self, *args):
        pass


def told_by_browser(browser, folder):
    """Open a folder's page and return what it tells."""
    told, heard = {}, threading.Event()
    site = functools.partial(Site, directory=str(folder), told=told, heard=heard)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), site) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"]
        options.append(f"--user-data-dir={folder / 'profile'}")
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        address = f"http://127.0.0.1:{server.server_port}/"
        with subprocess.Popen([browser, *options, address], **quiet) as process:
            answered = heard.wait(300)
            process.kill()
        server.shutdown()
    assert answered, "the page told nothing"
    assert "error" not in told, told["error"]
    return told


@pytest.mark.nightly
@pytest.mark.usefixtures("one_seed")
def test_the_module_of_the_page_embeds_in_a_browser_as_the_model_does(tmp_path):
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None or not ORT.exists():
        pytest.skip("no Chromium, or no onnxruntime-web: npm ci --prefix tests/browser")
    towers = {
        "image": Tower(
            encoder=ResNet(layers=(1, 1, 1, 1), width=8, image_size=32), head={"type": "linear"}
        ),
        "text": Tower(encoder=TextTransformer(width=16, depth=1, heads=2), head={"type": "mlp"}),
    }
    model = ContrastiveModel(ModelSpec(embed_dim=8, towers=towers, loss=InfoNCE())).eval()
    export(model, "onnx", tmp_path / "exported")
    (module,) = (
        block
        for block in blocks_of(ROOT / "docs" / "export_onnx.md")
        if "import" in block.text and block.language == "javascript"
    )
    (tmp_path / "search.mjs").write_text(module.text, encoding="utf-8")
    (tmp_path / "index.html").write_text(PAGE, encoding="utf-8")
    (tmp_path / "ort").mkdir()
    for name in FILES:
        shutil.copy(ORT / name, tmp_path / "ort" / name)
    told = told_by_browser(browser, tmp_path)
    expected = load_file(tmp_path / "exported" / "verify" / "embeddings.safetensors")
    np.testing.assert_allclose(np.array(told["text"]), expected["text"], atol=1e-5)
    cosines = (np.array(told["image"]) * expected["image"]).sum(-1)  # a canvas resizes otherwise
    assert np.median(cosines) > 0.999
